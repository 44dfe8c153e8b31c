// SPDX-License-Identifier: Apache-2.0
// What does a ring cost? P ranks of this process against one rank with as many threads, on the same whole problem.
//
//   ring                                  P = 2, causal zigzag, 4096 rows per rank, forward and backward
//   ring --ranks 2,4 --rows 8192 --json ring.jsonl && python3 bench/plot.py timeline ring.jsonl ring.svg
//
// One repetition is: one rank, the ring, the ring without overlap; so that a slow moment of the machine meets all.
// Exit status 1 if messages or bytes differ from what the schedule gives, or (with --check) a ring costs too much.
#include <barrier>
#include <mutex>

#include "traced.hpp"

namespace {

using namespace bench;

constexpr int dim = 64;

template <class Precision_, class Mask_, class Backend_, class Communicator_, class Overlap_> struct Pipeline : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Shard = std::conditional_t<is_causal<Mask_>, ZigZag, Contiguous>;
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Overlap = Overlap_;
  static constexpr int head_dim = dim;
};

/// One rank's pipeline with its tensors.
template <class P> class Rank {
 public:
  Rank(typename P::Backend& backend, typename P::Communicator& comm, Problem problem)
      : ring(backend, comm, {.problem = problem}), local(ring.local()) {
    fill(q, 1), fill(k, 2), fill(v, 3), fill(dout, 4);
  }
  void run(bool backward) {
    if (backward)
      ring.backward({.q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
    else
      ring.forward({.q = q, .k = k, .v = v, .out = out, .lse = lse});
  }

  RingAttention<P> ring;

 private:
  using Element = typename P::Precision::Element;
  Local local;
  Tensor<Element> q{local.q}, k{local.k}, v{local.v}, out{local.out}, dout{local.out}, dq{local.q}, dk{local.k},
      dv{local.v};
  Tensor<typename P::Precision::Accumulator> lse{local.lse};
};

struct Traffic {
  int64_t messages = 0, bytes = 0;
  bool operator==(Traffic const&) const = default;
};

/// What the schedule says all ranks together send in one call.
template <class P> Traffic planned(Schedule const& s, Problem p, bool backward) {
  Traffic t;
  for (int c = 0; c < s.size; ++c) {
    int64_t const elements = p.batch * s.kv_count[size_t(c)] * p.kv_heads * (P::head_dim + value_dim_of<P>);
    int const hops = s.travel[size_t(c)];
    if (elements == 0 || hops == 0) continue;
    t.messages += hops;
    t.bytes += hops * elements * int64_t(sizeof(typename P::Precision::Element));
    if (!backward) continue;
    t.messages += hops + 1;  // the sums travel along, then home
    t.bytes += (hops + 1) * elements * int64_t(sizeof(typename P::Precision::Wire));
  }
  return t;
}

struct Setup {
  int ranks, threads;
  Problem problem;
  int repetitions;
  bool backward;
};

template <class Precision, class Mask> Json measure(Setup const& setup) {
  using Alone = Pipeline<Precision, Mask, Cpu, Solo, Overlapped>;
  using Ringed = Pipeline<Precision, Mask, TracedCpu, TracedRing, Overlapped>;
  using Serially = Pipeline<Precision, Mask, TracedCpu, TracedRing, Serial>;
  int const ranks = setup.ranks, each = std::max(1, setup.threads / ranks);
  std::vector<Trace> traces(static_cast<size_t>(ranks));
  std::vector<Timings> overlapped(static_cast<size_t>(ranks)), serial(static_cast<size_t>(ranks));
  Sample one_s, ring_s, serial_s, ratio, overlap_gain;
  Traffic plan, done;
  size_t workspace = 0;
  std::mutex mutex;
  std::barrier together(ranks);
  double begin = 0, traced_from = 0;  // written by rank 0 between barriers

  run_ranks(
      ranks,
      [&](InProcess& inner) {
        auto const here = size_t(inner.rank());
        Trace& trace = traces[here];
        TracedCpu cpu(Cpu::Options{.threads = each}, trace);
        TracedRing comm(inner, trace);
        Rank<Ringed> ring(cpu, comm, setup.problem);
        Rank<Serially> plain(cpu, comm, setup.problem);
        Solo solo;
        std::optional<Cpu> all;
        std::optional<Rank<Alone>> alone;
        if (here == 0) {
          all.emplace(Cpu::Options{.threads = setup.threads});
          alone.emplace(*all, solo, setup.problem);
          if (setup.backward) alone->run(false);
          alone->run(setup.backward);
          plan = planned<Ringed>(ring.ring.schedule(), setup.problem.resolved(), setup.backward);
          workspace = ring.ring.workspace_bytes();
        }
        if (setup.backward) ring.run(false), plain.run(false);  // out and lse
        ring.run(setup.backward), plain.run(setup.backward);
        Timings const base = ring.ring.timings(), base_serial = plain.ring.timings();

        // Times f on all ranks, from the moment all are there until the last has ended.
        auto const timed = [&](auto& f) {
          together.arrive_and_wait();
          if (here == 0) begin = now();
          together.arrive_and_wait();
          f.run(setup.backward);
          together.arrive_and_wait();
          return now() - begin;
        };
        for (int i = 0; i < setup.repetitions; ++i) {
          double one = 0;
          together.arrive_and_wait();
          if (here == 0) {
            double const start = now();
            alone->run(setup.backward);
            one = now() - start;
          }
          trace.on = i == setup.repetitions - 1;
          double const with = timed(ring);
          if (here == 0) traced_from = begin;
          trace.on = false;
          double const without = timed(plain);
          if (here == 0) {
            one_s.add(one), ring_s.add(with), serial_s.add(without);
            ratio.add(with / one), overlap_gain.add(without / with);
          }
        }
        auto const since = [&](Timings t, Timings const& from) {
          t.compute_s = (t.compute_s - from.compute_s) / setup.repetitions;
          t.wait_s = (t.wait_s - from.wait_s) / setup.repetitions;
          t.messages = (t.messages - from.messages) / setup.repetitions;
          t.bytes = (t.bytes - from.bytes) / setup.repetitions;
          return t;
        };
        std::lock_guard lock(mutex);
        overlapped[here] = since(ring.ring.timings(), base);
        serial[here] = since(plain.ring.timings(), base_serial);
        done.messages += overlapped[here].messages;
        done.bytes += overlapped[here].bytes;
      },
      RunOptions{.deadline = std::chrono::minutes(10)});

  Json j;
  j.set("threads", setup.threads);
  j.set("threads_per_rank", each);
  j.set("one_rank_s", one_s.json());
  j.set("ring_s", ring_s.json());
  j.set("ring_without_overlap_s", serial_s.json());
  j.set("ring_over_one", ratio.json());
  j.set("overlap_gain", overlap_gain.json());
  j.set("messages", {{"sent", double(done.messages)}, {"schedule", double(plan.messages)}});
  j.set("bytes", {{"sent", double(done.bytes)}, {"schedule", double(plan.bytes)}});
  j.set("as_planned", plan == done);
  j.set("workspace_bytes_rank0", double(workspace));
  Json per_rank = Json::array();
  for (size_t r = 0; r < overlapped.size(); ++r) {
    Json spans = Json::array();
    for (auto const& s : traces[r].spans)
      spans.push({{"kind", s.kind},
                  {"begin", 1e3 * (s.begin - traced_from)},
                  {"end", 1e3 * (s.end - traced_from)},
                  {"bytes", s.bytes}});
    per_rank.push({{"compute_s", overlapped[r].compute_s},
                   {"wait_s", overlapped[r].wait_s},
                   {"wait_without_overlap_s", serial[r].wait_s},
                   {"messages", double(overlapped[r].messages)},
                   {"bytes", double(overlapped[r].bytes)},
                   {"spans_ms", spans}});
  }
  j.set("ranks", per_rank);
  return j;
}

}  // namespace

int main(int argc, char** argv) {
  int const cores = std::max(1, int(std::thread::hardware_concurrency()));
  Options const options(argc, argv,
                        {{"--ranks LIST", "ring sizes (default 2)"},
                         {"--threads N", "threads in all (default: cores)"},
                         {"--rows LIST", "rows per rank (default 4096)"},
                         {"--heads N", "heads (default 4)"},
                         {"--mask LIST", "full, causal (default both)"},
                         {"--precision LIST", "fp32, bf16 (default fp32)"},
                         {"--pass LIST", "forward, backward (default both)"},
                         {"--repetitions N", "default 7"},
                         {"--json FILE", "append JSON lines, with the last repetition's spans"},
                         {"--check PERCENT", "exit status 1 if a ring costs more than this over one rank"}});
  int failed = 0;
  try {
    JsonLines json(options.text("--json", ""));
    int const threads = int(options.number("--threads", cores));
    std::FILE* const table = options.text("--json", "") == "-" ? stderr : stdout;
    std::fprintf(table, "%-34s %9s %9s %7s  %-14s %8s %9s %9s  traffic\n", "case", "one ms", "ring ms", "cost %",
                 "min..max", "overlap", "wait ms", "serial");
    for (auto const& precision : options.list("--precision", "fp32"))
      for (auto const& mask : options.list("--mask", "full,causal"))
        for (auto const& pass : options.list("--pass", "forward,backward"))
          for (int64_t rows : options.numbers("--rows", "4096"))
            for (int64_t ranks : options.numbers("--ranks", "2")) {
              Setup const setup{.ranks = int(ranks),
                                .threads = threads,
                                .problem = {.seq = rows * ranks, .heads = int64_t(options.number("--heads", 4))},
                                .repetitions = int(options.number("--repetitions", 7)),
                                .backward = pass == "backward"};
              bool const causal = mask == "causal", half = precision == "bf16";
              Json const m = half ? (causal ? measure<Bf16, Causal>(setup) : measure<Bf16, Full>(setup))
                                  : (causal ? measure<Fp32, Causal>(setup) : measure<Fp32, Full>(setup));
              std::string const name = pass + "-" + precision + "-" + mask + "-d" + std::to_string(dim) + "-n" +
                                       std::to_string(rows) + "-p" + std::to_string(ranks);
              Json line = {{"bench", "ring"}, {"name", name}, {"rows_per_rank", double(rows)}, {"machine", machine()}};
              for (auto const& [key, value] : m.members()) line.set(key, value);
              json.write(line);

              Json const& ratio = *m.find("ring_over_one");
              double const cost = 100 * (ratio.number_or("median", NAN) - 1);
              double wait = 0, serial = 0;
              for (auto const& [key, r] : m.find("ranks")->members()) {
                wait = std::max(wait, r.number_or("wait_s", 0));
                serial = std::max(serial, r.number_or("wait_without_overlap_s", 0));
              }
              bool const as_planned = m.find("as_planned")->number() != 0;
              std::fprintf(
                  table, "%-34s %9.2f %9.2f %7.1f  %6.1f..%-6.1f %8.3f %9.2f %9.2f  %.0f messages, %.1f MiB%s\n",
                  name.c_str(), 1e3 * m.find("one_rank_s")->number_or("median", NAN),
                  1e3 * m.find("ring_s")->number_or("median", NAN), cost, 100 * (ratio.number_or("min", NAN) - 1),
                  100 * (ratio.number_or("max", NAN) - 1), m.find("overlap_gain")->number_or("median", NAN), 1e3 * wait,
                  1e3 * serial, m.find("messages")->number_or("sent", 0),
                  m.find("bytes")->number_or("sent", 0) / 1048576, as_planned ? ", as planned" : ", NOT AS PLANNED");
              std::fflush(table);
              failed += !as_planned;
              if (options.has("--check")) failed += !(cost <= options.number("--check", 3));
            }
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  return failed == 0 ? 0 : 1;
}
