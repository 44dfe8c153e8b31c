// SPDX-License-Identifier: Apache-2.0
// Layers on rings of 1, 2, 3 and 4 against whole layers by plain loops: outputs, all gradients, any block, kept or not.
#include <ringattn/comm/in_process.hpp>

#include <atomic>
#include <chrono>
#include <mutex>

#include "conformance.hpp"
#include "layer_reference.hpp"
#include "naive_backend.hpp"

using namespace ringattn;
using namespace ringattn::test;
using namespace std::chrono_literals;

namespace {

struct Base : Policy {
  using Backend = naive::Backend;
  using Precision = Fp64;
  static constexpr int head_dim = 4;
  static constexpr int value_dim = 3;
};
struct DecoderZigZag : Base {
  using Mask = Causal;
  using Shard = ZigZag;
};
struct DecoderStriped : Base {
  using Mask = Causal;
  using Shard = Striped;
};
struct Encoder : Base {
  using Mask = Full;
};
struct CrossZigZag : Base {
  using Mask = Full;
  using Shard = ZigZag;
  using KvShard = Contiguous;
};

constexpr Shape decoder_shape{.batch = 2,
                              .seq = 13,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 4,
                              .value_dim = 3,
                              .width = 6,
                              .hidden = 5,
                              .rope_base = 100};

/// What came out, put together from all ranks.
struct Result {
  Numbers y, dx, gradient, dmemory;
};

Extents tokens_extents(Shape const& s) { return {s.batch, s.seq, 1, s.width}; }
Extents memory_extents(Shape const& s) { return {s.batch, s.memory_seq, 1, s.memory_width}; }

template <class P> typename AttentionBlock<P>::Options self_options(Shape const& s, int64_t block, bool keep) {
  return {.ring = {.problem = {.batch = s.batch, .seq = s.seq, .heads = s.heads, .kv_heads = s.kv_heads}},
          .width = s.width,
          .rope_base = s.rope_base,
          .epsilon = s.epsilon,
          .block = block,
          .keep = keep};
}

void check_agreement(Result const& got, Result const& expected, double tolerance) {
  CHECK(difference(got.y, expected.y) < tolerance);
  CHECK(difference(got.dx, expected.dx) < tolerance);
  CHECK(difference(got.gradient, expected.gradient) < tolerance);
  CHECK((got.dmemory.empty() || difference(got.dmemory, expected.dmemory) < tolerance));
}

// ---------------------------------------------------------------- decoder and encoder layers

template <class P, class Activation>
Result run_layer(Shape const& s, int ranks, int64_t block, bool keep, Numbers const& weights, Numbers const& x,
                 Numbers const& dy) {
  using L = Layer<P, Activation>;
  typename L::Options const options{.attention = self_options<P>(s, block, keep), .hidden = s.hidden};
  Result all{Numbers(x.size()), Numbers(x.size()), Numbers(weights.size()), {}};
  std::mutex mutex;
  run_ranks(ranks,
            [&](InProcess& comm) {
              naive::Backend backend;
              L layer(backend, comm, options);
              auto const rows = layer.ring().rows();
              Numbers const mine = take_rows(x, tokens_extents(s), rows);
              Numbers d = take_rows(dy, tokens_extents(s), rows), y(mine.size()), gradient(weights.size());
              Carver<double const> wc(weights.data());
              Carver<double> gc(gradient.data()), counter;
              layer.checkpoint(counter);
              Numbers memory(static_cast<size_t>(counter.used()));
              Carver<double> mc(memory.data());
              auto const checkpoint = layer.checkpoint(mc);
              std::copy(mine.begin(), mine.end(), checkpoint.x.data);
              CHECK(layer.activation_bytes() == memory.size() * sizeof(double));
              Carver<double> from(const_cast<double*>(weights.data()));
              auto const w = L::weights(from, options), g = L::weights(gc, options);
              layer.forward(w, checkpoint, matrix(y, layer.tokens(), s.width));
              layer.backward(w, g, checkpoint, matrix(d, layer.tokens(), s.width));
              std::lock_guard lock(mutex);
              put_rows(all.y, tokens_extents(s), rows, y);
              put_rows(all.dx, tokens_extents(s), rows, d);
              add(all.gradient, gradient);
            },
            {.deadline = 20s});
  return all;
}

template <class P, class Activation> void check_layer(Shape const& s, std::uint64_t seed) {
  CAPTURE(seed);
  Random random(seed);
  using L = Layer<P, Activation>;
  typename L::Options const options{.attention = self_options<P>(s, 128, false), .hidden = s.hidden};
  Carver<double> counter;
  L::weights(counter, options);
  Numbers weights = random_numbers(random, counter.used(), 0.5);
  Numbers x = random_numbers(random, s.batch * s.seq * s.width);
  Numbers const dy = random_numbers(random, int64_t(x.size()));
  auto const reference = [&] {
    Carver<double> c(weights.data());
    return reference_layer<Activation>(s, LayerWeights<double const>(L::weights(c, options)), typename P::Mask{}, x);
  };

  Result const one = run_layer<P, Activation>(s, 1, 128, false, weights, x, dy);
  CHECK(difference(one.y, reference()) < 1e-12);
  auto const f = [&] { return inner(reference(), dy); };
  CHECK(gradient_error(random, f, {{&x, &one.dx}, {&weights, &one.gradient}}) < 1e-7);
  for (int const ranks : {1, 2, 3, 4})
    for (int64_t const block : {1, 5, 64})
      for (bool const keep : {false, true}) {
        CAPTURE(ranks);
        CAPTURE(block);
        CAPTURE(keep);
        check_agreement(run_layer<P, Activation>(s, ranks, block, keep, weights, x, dy), one, 1e-12);
      }
}

// ---------------------------------------------------------------- the encoder-decoder layer

template <class Self, class Cross>
Result run_cross_layer(Shape const& s, int ranks, int64_t block, bool keep, Numbers const& weights, Numbers const& x,
                       Numbers const& source, Numbers const& dy) {
  using L = CrossLayer<Self, Cross>;
  typename L::Options options{.self = self_options<Self>(s, block, keep), .cross = {}, .hidden = s.hidden};
  options.cross.ring.problem = {s.batch, s.seq, s.memory_seq, s.heads, s.kv_heads};
  options.cross.source_width = s.memory_width;
  options.cross.keep = keep;
  Result all{Numbers(x.size()), Numbers(x.size()), Numbers(weights.size()), Numbers(source.size())};
  std::mutex mutex;
  run_ranks(ranks,
            [&](InProcess& comm) {
              naive::Backend backend;
              L layer(backend, comm, options);
              auto const rows = typename Self::Shard{}.rows(Ring{comm.rank(), ranks}, s.seq);
              auto const memory_rows = KvShardOf<Cross>{}.rows(Ring{comm.rank(), ranks}, s.memory_seq);
              Numbers const mine = take_rows(x, tokens_extents(s), rows);
              Numbers const memory = take_rows(source, memory_extents(s), memory_rows);
              Numbers d = take_rows(dy, tokens_extents(s), rows), y(mine.size()), gradient(weights.size());
              Numbers dmemory(memory.size()), kept(layer.activation_bytes() / sizeof(double));
              Carver<double> gc(gradient.data()), mc(kept.data()), from(const_cast<double*>(weights.data()));
              auto const checkpoint = layer.checkpoint(mc);
              std::copy(mine.begin(), mine.end(), checkpoint.x.data);
              auto const w = L::weights(from, options), g = L::weights(gc, options);
              auto const source_part = matrix(memory, layer.memory_tokens(), s.memory_width);
              layer.forward(w, checkpoint, source_part, matrix(y, layer.tokens(), s.width));
              layer.backward(w, g, checkpoint, source_part, matrix(d, layer.tokens(), s.width),
                             matrix(dmemory, layer.memory_tokens(), s.memory_width));
              std::lock_guard lock(mutex);
              put_rows(all.y, tokens_extents(s), rows, y);
              put_rows(all.dx, tokens_extents(s), rows, d);
              put_rows(all.dmemory, memory_extents(s), memory_rows, dmemory);
              add(all.gradient, gradient);
            },
            {.deadline = 20s});
  return all;
}

}  // namespace

template class ringattn::Layer<Encoder, Gelu, PlainGemm>;  // a matrix product that the user brings

TEST_CASE("layer: decoder, zigzag, SwiGLU") { check_layer<DecoderZigZag, SwiGlu>(decoder_shape, 61); }
TEST_CASE("layer: decoder, striped, GELU") { check_layer<DecoderStriped, Gelu>(decoder_shape, 62); }
TEST_CASE("layer: encoder") {
  Shape s = decoder_shape;
  s.kv_heads = 4;
  s.rope_base = 0;
  check_layer<Encoder, Gelu>(s, 63);
}
TEST_CASE("layer: more ranks than rows") {
  Shape s = decoder_shape;
  s.seq = 2;
  check_layer<DecoderZigZag, SwiGlu>(s, 64);
}

TEST_CASE("cross_layer: decoder of an encoder-decoder") {
  std::uint64_t const seed = 65;
  CAPTURE(seed);
  Random random(seed);
  Shape s = decoder_shape;
  s.memory_seq = 9;
  s.memory_width = 7;
  using L = CrossLayer<DecoderZigZag, CrossZigZag>;
  L::Options options{.self = self_options<DecoderZigZag>(s, 128, false), .cross = {}, .hidden = s.hidden};
  options.cross.ring.problem = {s.batch, s.seq, s.memory_seq, s.heads, s.kv_heads};
  options.cross.source_width = s.memory_width;
  Carver<double> counter;
  L::weights(counter, options);
  Numbers weights = random_numbers(random, counter.used(), 0.5);
  Numbers x = random_numbers(random, s.batch * s.seq * s.width);
  Numbers memory = random_numbers(random, s.batch * s.memory_seq * s.memory_width);
  Numbers const dy = random_numbers(random, int64_t(x.size()));
  auto const reference = [&] {
    Carver<double> c(weights.data());
    return reference_cross_layer<SwiGlu>(s, CrossLayerWeights<double const>(L::weights(c, options)), Causal{}, x,
                                         memory);
  };

  Result const one = run_cross_layer<DecoderZigZag, CrossZigZag>(s, 1, 128, false, weights, x, memory, dy);
  CHECK(difference(one.y, reference()) < 1e-12);
  auto const f = [&] { return inner(reference(), dy); };
  CHECK(gradient_error(random, f, {{&x, &one.dx}, {&memory, &one.dmemory}, {&weights, &one.gradient}}) < 1e-7);
  for (int const ranks : {1, 2, 3, 4})
    for (int64_t const block : {1, 5, 64})
      for (bool const keep : {false, true}) {
        CAPTURE(ranks);
        CAPTURE(block);
        CAPTURE(keep);
        check_agreement(run_cross_layer<DecoderZigZag, CrossZigZag>(s, ranks, block, keep, weights, x, memory, dy), one,
                        1e-12);
      }
}

TEST_CASE("layer: what is wrong is said on every rank") {
  for (int const ranks : {1, 2}) {
    auto const plan = [&](auto change) {
      Layer<DecoderZigZag>::Options o{.attention = self_options<DecoderZigZag>(decoder_shape, 64, false), .hidden = 8};
      change(o);
      run_ranks(ranks,
                [&](InProcess& comm) {
                  naive::Backend backend;
                  Layer<DecoderZigZag> layer(backend, comm, o);
                },
                {.deadline = 20s});
    };
    CHECK_THROWS_AS(plan([](auto& o) { o.attention.width = 0; }), Error);
    CHECK_THROWS_AS(plan([](auto& o) { o.hidden = 0; }), Error);
    CHECK_THROWS_AS(plan([](auto& o) { o.attention.block = 0; }), Error);
    CHECK_THROWS_AS(plan([](auto& o) { o.attention.rope_base = -1; }), Error);
    CHECK_THROWS_AS(plan([](auto& o) { o.attention.ring.problem.kv_heads = 3; }), Error);
  }
}

TEST_CASE("layer: what differs between ranks is said on every rank") {
  for (int const ranks : {2, 3}) {
    auto const plan = [&](auto change) {
      std::atomic<int> told{0};
      run_ranks(ranks,
                [&](InProcess& comm) {
                  naive::Backend backend;
                  Layer<DecoderZigZag>::Options o{.attention = self_options<DecoderZigZag>(decoder_shape, 64, false),
                                                  .hidden = 8};
                  if (comm.rank() == ranks - 1) change(o);
                  try {
                    Layer<DecoderZigZag> layer(backend, comm, o);
                  } catch (Error const& e) {
                    told += e.code() == ErrorCode::contract_mismatch && e.rank() == ranks - 1;
                  }
                },
                {.deadline = 20s});
      return told == ranks;
    };
    CHECK(plan([](auto& o) { o.attention.width = 7; }));
    CHECK(plan([](auto& o) { o.attention.rope_base = 7; }));
    CHECK(plan([](auto& o) { o.attention.block = 0; }));
    CHECK(plan([](auto& o) { o.hidden = 9; }));
  }
}
