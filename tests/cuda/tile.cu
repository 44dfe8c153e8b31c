// SPDX-License-Identifier: Apache-2.0
// Shared tiles and tensor-core operands against plain loops, on small integers, which every precision multiplies
// exactly.
#include <ringattn/cuda/product.cuh>

#include "../emulator/check.cuh"

namespace {

using namespace ringattn;
using cuda::Word;

constexpr int rows = 32, threads = 64;  // two warps of 16 rows

template <class T> __host__ __device__ T number(int64_t i) { return T(float((i * 5 + i / 7) % 9 - 4)); }
/// What the accumulators of the product that starts in registers hold.
__host__ __device__ float weight(int row, int column) { return float((row * 3 + column) % 5 - 2); }

template <int n> __device__ void store(float* to, int first_row, float const (&c)[1][n][4]) {
  int const g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 4 * n; ++i)
    to[(first_row + g + i % 4 / 2 * 8) * 8 * n + i / 4 * 8 + 2 * t + i % 2] = c[0][i / 4][i % 4];
}

template <class Precision, int columns>
__global__ void products(cuda::RowsOf<typename Precision::Element const> x,
                         cuda::RowsOf<typename Precision::Element const> y, int count, float* xyt, float* wy,
                         float* xty) {
  using Mma = cuda::Mma<Precision>;
  using Tile = cuda::SharedTile<Mma, rows, columns, threads>;
  extern __shared__ __align__(128) unsigned char shared[];
  Tile const a{cuda::ptx::shared_address(shared)}, b{cuda::ptx::shared_address(shared) + Tile::bytes};
  a.fill(x, x.at(0, 0, 0), rows);
  cuda::ptx::commit_copies();
  b.fill(y, y.at(0, 0, 0), count);
  cuda::ptx::commit_copies();
  cuda::ptx::wait_copies<0>();
  __syncthreads();
  int const warp = int(threadIdx.x) / 32;

  float c[1][rows / 8][4];
  cuda::multiply_scores<columns>(c, cuda::RowsAsA(a, 16 * warp), cuda::RowsAsB(b));
  store(xyt, 16 * warp, c);

  int const g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < rows / 2; ++i)
    c[0][i / 4][i % 4] = weight(16 * warp + g + i % 4 / 2 * 8, i / 4 * 8 + 2 * t + i % 2);
  float d[1][columns / 8][4] = {};
  cuda::multiply<rows>(d, cuda::sums_as_a<Mma>(c), cuda::ColumnsAsB(b));
  store(wy, 16 * warp, d);

#pragma unroll 1
  for (int first = 16 * warp; first < columns; first += 32) {
    float e[1][columns / 8][4] = {};
    cuda::multiply<rows>(e, cuda::ColumnsAsA(a, first), cuda::ColumnsAsB(b));
    store(xty, first, e);
  }
}

template <class Precision, int columns> void check_products(int64_t dim_stride, int count) {
  using T = typename Precision::Element;
  int64_t const width = columns * dim_stride + 8;
  std::vector<T> x, y;
  for (int64_t i = 0; i < rows * width; ++i) {
    x.push_back(number<T>(i));
    y.push_back(number<T>(3 * i + 1));
  }
  View<T const, DeviceSpace> const vx(device_copy(x), {1, rows, 1, columns}, {0, width, 0, dim_stride}),
      vy(device_copy(y), {1, rows, 1, columns}, {0, width, 0, dim_stride});
  float *const xyt = device_array<float>(rows * rows), *const wy = device_array<float>(rows * columns),
               *const xty = device_array<float>(columns * columns);
  cuda::RowsOf<T const> const rx(vx), ry(vy);
  EXPECT(rx.chunks == (dim_stride == 1));
  products<Precision, columns><<<1, threads, 2 * rows * columns * sizeof(T)>>>(rx, ry, count, xyt, wy, xty);
  CHECK_CUDA(cudaDeviceSynchronize());
  auto const at = [&](std::vector<T> const& z, int row, int column) {
    return float(z[row * width + column * dim_stride]);
  };
  auto const b = [&](int row, int column) { return row < count ? at(y, row, column) : 0; };
  auto const got_xyt = host_copy(xyt, rows * rows), got_wy = host_copy(wy, rows * columns),
             got_xty = host_copy(xty, columns * columns);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < rows; ++j) {
      float sum = 0;
      for (int k = 0; k < columns; ++k) sum += at(x, i, k) * b(j, k);
      EXPECT(got_xyt[i * rows + j] == sum);
    }
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) {
      float sum = 0;
      for (int k = 0; k < rows; ++k) sum += weight(i, k) * b(k, j);
      EXPECT(got_wy[i * columns + j] == sum);
    }
  for (int i = 0; i < columns; ++i)
    for (int j = 0; j < columns; ++j) {
      float sum = 0;
      for (int k = 0; k < rows; ++k) sum += at(x, k, i) * b(k, j);
      EXPECT(got_xty[i * columns + j] == sum);
    }
}

/// Finite numbers are rounded to tf32 in two ways, with the same bits: ties, subnormals, what becomes infinite, and
/// any.
__global__ void compare_roundings(unsigned* different) {
  constexpr Word edges[] = {0,        1,        0xfff,      0x1000,     0x1fff,    0x3000,
                            0x7fffff, 0x800000, 0x7f7fefff, 0x7f7ff000, 0x7f7fffff};
  constexpr int count = int(sizeof edges / sizeof edges[0]);
  unsigned found = 0;
  for (unsigned i = threadIdx.x; i < 4096; i += 32) {
    Word const any = i * 2654435761u ^ i << 7, x = (i < 2 * count ? edges[i / 2] : any) ^ i << 31;
    if (cuda::Mma<Fp32>::special(x)) continue;
    float const f = __uint_as_float(x);
    found += cuda::Mma<Fp32>::finite_to_tf32(f) != cuda::ptx::to_tf32(f);
  }
  different[threadIdx.x] = found;
}
void check_roundings() {
  unsigned* const different = device_array<unsigned>(32);
  compare_roundings<<<1, 32>>>(different);
  CHECK_CUDA(cudaDeviceSynchronize());
  for (unsigned n : host_copy(different, 32)) EXPECT(n == 0);
}

template <class Precision> void check_precision() {
  check_products<Precision, 32>(1, rows);
  check_products<Precision, 64>(1, 21);
  check_products<Precision, 96>(2, 13);
}

}  // namespace

int main() {
  check_precision<Bf16>();
  check_precision<Fp16>();
  check_precision<Tf32>();
  check_precision<Fp32>();
  check_roundings();
  std::printf(failures ? "%d wrong\n" : "right\n", failures);
  return failures != 0;
}
