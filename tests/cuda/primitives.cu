// SPDX-License-Identifier: Apache-2.0
// Prints what every instruction of ptx.cuh gives, lane by lane: primitives [--compare FILE].
//
// Only the output of a real card is a golden file, and it names the card; what the emulator prints is "emulated, not
// run on a GPU". --compare: matrix products and powers within their tolerance, everything else bit by bit. Sums in
// memory are also compared with what the host computes, here and on a card: the card that printed the file was not
// asked for them. Code for compute capability 8.x has no sum of four at a time, and prints none.
#include <ringattn/cuda/ptx.cuh>

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "../emulator/check.cuh"

namespace ptx = ringattn::cuda::ptx;
using ptx::Word;

constexpr int lanes = 32, values = 4;

/// Inputs of one warp: words that are also sensible numbers of every format, and plain floats.
struct Inputs {
  Word bits[lanes * values];
  float numbers[lanes * values];
};

enum Case {
  copies,
  copies_invalid,
  matrices,
  matrices_transposed,
  words,
  hand_over,
  product_bf16,
  product_fp16,
  product_tf32,
  power,
  largest,
  tf32,
  bf16,
  fp16,
  sum,
  sum_of_four,
  cases,
};
char const* const names[cases] = {"copy_16",       "copy_16 not valid",
                                  "load_matrices", "load_matrices_transposed",
                                  "store_words",   "store_release",
                                  "mma_bf16",      "mma_fp16",
                                  "mma_tf32",      "exp2",
                                  "max",           "to_tf32",
                                  "to_bf16",       "to_fp16",
                                  "add",           "add_4"};
constexpr bool has_golden_lines(int c) { return c != sum && c != sum_of_four; }

/// What a lane adds to, and what it adds: numbers that are rounded, ties, zeros of both signs, infinities and NaN, and
/// around the smallest normal number, where PTX has numbers and sums that are subnormal replaced by zeros of their
/// sign.
__host__ __device__ inline void summands(int lane, float (&old)[values], float (&x)[values]) {
  float const least = 0x1p-126f, s = lane % 2 ? -1.f : 1.f;
  float const pairs[8][2] = {{s, s * 0x1p-24f},
                             {s * 1.0000001f, s * 0x1p-24f},
                             {-0.f, s * 0.f},
                             {s * INFINITY, lane & 2 ? INFINITY : 1.f},
                             {s * least * 1.5f, -s * least},
                             {s * least * 0.25f, s * least},
                             {s * least, -s * least * 0.5f},
                             {s * least * 0.5f, s * least * 0.5f}};
  for (int i = 0; i < values; ++i) {
    int const which = (lane / 2 + 2 * i) % 8;
    old[i] = pairs[which][0] * (which < 2 ? float(1 + lane) : 1.f);
    x[i] = pairs[which][1];
  }
}
float flushed(float x) { return std::abs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }

/// `sums`: a float4 per lane, and one for all of them.
__global__ void run(Inputs const* in, Word* scratch, float4* sums, Word* out, int* adds_four) {
  __shared__ alignas(16) Word shared[lanes * values];
  int const lane = ptx::lane(), first = lane * values;
  auto const put = [&](Case c, Word const(&x)[values]) {
    for (int i = 0; i < values; ++i) out[(int(c) * lanes + lane) * values + i] = x[i];
  };
  auto const mine = ptx::shared_address(shared + first);
  Word const* const bits = in->bits;
  float const* const x = in->numbers;
  Word r[values];

  for (bool valid : {true, false}) {
    for (int i = 0; i < values; ++i) shared[first + i] = 7;
    __syncwarp();
    ptx::copy_16(mine, bits + first, valid);
    ptx::commit_copies();
    ptx::wait_copies<0>();
    __syncwarp();
    ptx::load_words(r, mine);
    put(valid ? copies : copies_invalid, r);
    __syncwarp();
  }
  for (int i = 0; i < values; ++i) shared[first + i] = bits[first + i];
  __syncwarp();
  ptx::load_matrices(r, mine);
  put(matrices, r);
  ptx::load_matrices_transposed(r, mine);
  put(matrices_transposed, r);
  __syncwarp();
  Word const next[values] = {bits[(first + 5) % (lanes * values)], ptx::load_word(mine + 4), 3, Word(lane)};
  __syncwarp();
  ptx::store_words(mine, next);
  Word two[2];  // by halves and back, which must change nothing
  ptx::load_words(two, mine);
  ptx::store_word(mine, two[0]);
  ptx::store_word(mine + 4, two[1]);
  two[0] = ptx::load_word(mine + 8), two[1] = ptx::load_word(mine + 12);
  ptx::store_words(mine + 8, two);
  ptx::store_word(mine + 8, 11);
  __syncwarp();
  for (int i = 0; i < values; ++i) r[i] = shared[(first + values + i) % (lanes * values)];
  put(words, r);
  ptx::store_release(scratch + lane, bits[first]);
  Word const seen[values] = {ptx::load_acquire(scratch + lane), 0, 0, 0};
  put(hand_over, seen);

  Word const a[4] = {bits[first], bits[first + 1], bits[first + 2], bits[first + 3]};
  Word const b[2] = {bits[(first + 9) % (lanes * values)], bits[(first + 14) % (lanes * values)]};
  auto const product = [&](Case c, auto mma) {
    float sum[4] = {x[first], x[first + 1], x[first + 2], x[first + 3]};
    mma(sum, a, b);
    for (int i = 0; i < values; ++i) r[i] = __float_as_uint(sum[i]);
    put(c, r);
  };
  product(product_bf16, [](auto& c, auto& p, auto& q) { ptx::mma_bf16(c, p, q); });
  product(product_fp16, [](auto& c, auto& p, auto& q) { ptx::mma_fp16(c, p, q); });
  product(product_tf32, [](auto& c, auto& p, auto& q) { ptx::mma_tf32(c, p, q); });

  float const special[8] = {-INFINITY, INFINITY, NAN, -0.f, 0.f, -130.f, 127.5f, -1e-20f};
  float const y[4] = {x[first] * 8, x[first + 1], special[lane % 8], x[first + 3] * 40};
  for (int i = 0; i < values; ++i) r[i] = __float_as_uint(ptx::exp2(y[i]));
  put(power, r);
  for (int i = 0; i < values; ++i) r[i] = __float_as_uint(ptx::max(y[i], x[(first + 7) % (lanes * values)]));
  put(largest, r);
  for (int i = 0; i < values; ++i) r[i] = ptx::to_tf32(y[i]);
  put(tf32, r);
  for (int i = 0; i < values; ++i) r[i] = ptx::to_bf16(y[i], x[first]);
  put(bf16, r);
  for (int i = 0; i < values; ++i) r[i] = ptx::to_fp16(y[i], x[first]);
  put(fp16, r);

  // To numbers of its own, and to some of all lanes, with the same sum in any order.
  auto const add = [&](Case c, auto add_to) {
    float old[values], more[values], ones[values] = {1, float(lane), -0.5f, 1024};
    summands(lane, old, more);
    sums[lane] = {old[0], old[1], old[2], old[3]};
    if (lane == 0) sums[lanes] = {};
    __syncwarp();
    add_to(&sums[lane], more);
    add_to(&sums[lanes], ones);
    __threadfence();
    __syncwarp();
    float4 const volatile *mine = &sums[lane], *all = &sums[lanes];
    float const now[values] = {mine->x, mine->y, mine->z, mine->w}, of_all[values] = {all->x, all->y, all->z, all->w};
    // The last lane shows the sums of all.
    for (int i = 0; i < values; ++i) r[i] = __float_as_uint(lane == lanes - 1 ? of_all[i] : now[i]);
    __syncwarp();
    put(c, r);
  };
  add(sum, [](float4* p, float const(&z)[values]) {
    for (int i = 0; i < values; ++i) ptx::add(&p->x + i, z[i]);
  });
#if __CUDA_ARCH__ >= 900
  add(sum_of_four, [](float4* p, float const(&z)[values]) { ptx::add(p, z); });
  *adds_four = 1;
#else
  *adds_four = 0;
#endif
}

/// Is `got` what the golden file has, as far as cards and rounding can differ?
bool agrees(std::string const& name, Word got, Word want) {
  if (got == want) return true;
  bool const rounds = name.rfind("mma", 0) == 0 || name == "exp2";
  float a, b;
  std::memcpy(&a, &got, 4);
  std::memcpy(&b, &want, 4);
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return rounds && std::abs(a - b) <= std::max(std::abs(b), name == "exp2" ? 0.f : 1.f) * 0x1p-20f;
}

int main(int argc, char** argv) {
  Inputs in;
  unsigned h = 12345;
  for (int i = 0; i < lanes * values; ++i) {
    auto const small = [&] { return (h = h * 1664525u + 1013904223u) >> 24; };
    // 16-bit halves with exponents about 1 in bf16 and fp16, words of modest size in tf32.
    in.bits[i] = (0x3c00u + small()) << 16 | (0xbc00u + small());
    in.numbers[i] = float(int(small()) - 128) / 64;
  }
  Inputs* const device_in = device_array<Inputs>(1);
  CHECK_CUDA(cudaMemcpy(device_in, &in, sizeof in, cudaMemcpyHostToDevice));
  Word *const scratch = device_array<Word>(lanes), *const out = device_array<Word>(cases * lanes * values);
  float4* const sums = device_array<float4>(lanes + 1);
  int* const adds_four = device_array<int>(1);
  CHECK_CUDA(cudaMemset(out, 0, cases * lanes * values * sizeof(Word)));
  run<<<1, lanes>>>(device_in, scratch, sums, out, adds_four);
  CHECK_CUDA(cudaDeviceSynchronize());
  auto const got = host_copy(out, cases * lanes * values);
  int const there = host_copy(adds_four, 1)[0] ? cases : sum_of_four;

  cudaDeviceProp card;
  CHECK_CUDA(cudaGetDeviceProperties(&card, 0));
  bool const emulated = dlsym(RTLD_DEFAULT, "ringattn_emulator_report") != nullptr;
  std::printf("# %s\n", emulated ? "emulated, not run on a GPU" : card.name);
  std::map<std::string, std::string> lines;
  for (int c = 0; c < there; ++c)
    for (int lane = 0; lane < lanes; ++lane) {
      std::string const key = std::string(names[c]) + " " + std::to_string(lane);
      char text[64];
      Word const* const x = &got[size_t((c * lanes + lane) * values)];
      std::snprintf(text, sizeof text, "%08x %08x %08x %08x", x[0], x[1], x[2], x[3]);
      lines[key] = text;
      std::printf("%s: %s\n", key.c_str(), text);
    }
  for (int c : {sum, sum_of_four})
    for (int lane = 0; lane < lanes && c < there; ++lane) {
      float old[values], x[values];
      summands(lane, old, x);
      float const all[values] = {lanes, lanes * (lanes - 1) / 2, -lanes / 2, 1024 * lanes};
      for (int i = 0; i < values; ++i) {
        float const exact = lane == lanes - 1 ? all[i] : flushed(flushed(old[i]) + flushed(x[i]));
        Word want;
        std::memcpy(&want, &exact, 4);
        Word const is = got[size_t((c * lanes + lane) * values + i)];
        if (!agrees(names[c], is, want) && ++failures < 20)
          std::printf("wrong: %s %d: %g + %g = %08x, not %08x\n", names[c], lane, old[i], x[i], is, want);
      }
    }
  if (argc == 3 && std::string(argv[1]) == "--compare") {
    std::ifstream file(argv[2]);
    EXPECT(file.good());
    int compared[cases] = {};
    for (std::string line; std::getline(file, line);) {
      auto const colon = line.find(": ");
      if (line.empty() || line[0] == '#' || colon == line.npos) continue;
      std::string const key = line.substr(0, colon), name = key.substr(0, key.rfind(' '));
      int const c = int(std::find(names, names + cases, name) - names);
      if (c >= there) {
        EXPECT(c == sum_of_four);  // there is no other that this code may lack
        continue;
      }
      std::istringstream want(line.substr(colon + 2)), have(lines[key]);
      Word a, b;
      while (want >> std::hex >> a) {
        bool const ok = (have >> std::hex >> b) && agrees(name, b, a);
        if (!ok && ++failures < 20) std::printf("differs: %s: %08x, not %08x\n", key.c_str(), b, a);
      }
      ++compared[c];
    }
    for (int c = 0; c < there; ++c)
      if (compared[c] == 0 && !has_golden_lines(c))
        std::fprintf(stderr, "%s: no golden lines, compared with the host's sums alone\n", names[c]);
      else
        EXPECT(compared[c] == lanes);
  }
  std::fprintf(stderr, failures ? "%d wrong\n" : "right\n", failures);
  return failures != 0;
}
