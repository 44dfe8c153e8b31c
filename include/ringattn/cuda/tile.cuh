// SPDX-License-Identifier: Apache-2.0
// Tensors as kernels take them, and tiles of them in shared memory. How warps multiply tiles: product.cuh.
//
// A row is stored as chunks of 16 bytes, and the chunks of a row are exchanged (XOR with the row number) such that the
// eight rows that one 8 x 8 matrix load reads lie in different banks.
#pragma once

#include "../tensor.hpp"
#include "mma.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

/// A tensor as kernels take it: one row of `dim` elements per (batch, position, head).
template <class T> struct RowsOf {
  T* data = nullptr;
  int64_t batch = 0, row = 0, head = 0, dim = 0;  ///< strides in elements
  bool chunks = false;                            ///< every row is dense and 16-byte aligned

  RowsOf() = default;
  template <class Space> explicit RowsOf(View<T, Space> const& v) : data(v.data) {
    // The stride of an axis of one element is nobody's business.
    auto const stride = [&](int axis, int64_t extent) { return extent > 1 ? v.stride[axis] : 0; };
    batch = stride(0, v.extents.batch);
    row = stride(1, v.extents.seq);
    head = stride(2, v.extents.heads);
    dim = v.extents.dim > 1 ? v.stride[3] : 1;
    auto const aligned = [](int64_t n) { return n * int64_t(sizeof(T)) % 16 == 0; };
    chunks = dim == 1 && aligned(batch) && aligned(row) && aligned(head) && reinterpret_cast<size_t>(data) % 16 == 0;
  }
  RINGATTN_HD T* at(int64_t b, int64_t s, int64_t h) const { return data + b * batch + s * row + h * head; }
};

/// Two neighbours of a row, rounded to nearest even: 16-bit ones by one instruction.
template <class T> struct alignas(2 * sizeof(T)) Neighbours {
  T x, y;

  __device__ static Neighbours of(float x, float y) {
    if constexpr (std::is_same_v<T, BFloat16>)
      return __builtin_bit_cast(Neighbours, ptx::to_bf16(x, y));
    else if constexpr (std::is_same_v<T, Float16>)
      return __builtin_bit_cast(Neighbours, ptx::to_fp16(x, y));
    else
      return {T(x), T(y)};
  }
};

/// Stores eight values as elements 8 column, 8 column + 1, ... of the row at `to`.
template <class T> __device__ inline void store_8(RowsOf<T> const& tensor, T* to, int column, float const (&x)[8]) {
  constexpr int n = 8 / int(sizeof(T));  // pairs in 16 bytes
  struct alignas(16) Chunk {
    Neighbours<T> pairs[n];
  };
  Chunk chunks[4 / n];
#pragma unroll
  for (int i = 0; i < 4; ++i) chunks[i / n].pairs[i % n] = Neighbours<T>::of(x[2 * i], x[2 * i + 1]);
  if (tensor.chunks) {
#pragma unroll
    for (int i = 0; i < 4 / n; ++i) reinterpret_cast<Chunk*>(to)[column * (4 / n) + i] = chunks[i];
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to[(8 * column + 2 * i) * tensor.dim] = chunks[i / n].pairs[i % n].x;
      to[(8 * column + 2 * i + 1) * tensor.dim] = chunks[i / n].pairs[i % n].y;
    }
  }
}

/// Loads eight values, elements 8 column, 8 column + 1, ... of the row at `from`.
template <class T>
__device__ inline void load_8(RowsOf<T const> const& tensor, T const* from, int column, float (&x)[8]) {
  constexpr int n = 16 / int(sizeof(T));
  struct alignas(16) Chunk {
    T x[n];
  };
  if (tensor.chunks) {
#pragma unroll
    for (int i = 0; i < 8 / n; ++i) {
      Chunk const chunk = reinterpret_cast<Chunk const*>(from)[column * (8 / n) + i];
#pragma unroll
      for (int e = 0; e < n; ++e) x[i * n + e] = float(chunk.x[e]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = float(from[(8 * column + i) * tensor.dim]);
  }
}

/// Stores two neighbours of a row; `column` is even.
template <class T> __device__ inline void store_2(RowsOf<T> const& tensor, T* row, int column, float x, float y) {
  Neighbours<T> const pair = Neighbours<T>::of(x, y);
  if (tensor.chunks) {
    *reinterpret_cast<Neighbours<T>*>(row + column) = pair;
  } else {
    row[column * tensor.dim] = pair.x;
    row[(column + 1) * tensor.dim] = pair.y;
  }
}

namespace detail {

/// A thread's share of the chunks of a tile: one chunk of every so many rows, the same ones at every call.
template <int rows, int chunks, int threads> class Share {
  /// Rows that all threads fill at once: a multiple of 8 or a power of 2, so that one XOR finds the place of a chunk.
  static constexpr int rows_at_once() {
    int n = threads / chunks;
    if (n >= 8) return n / 8 * 8;
    while ((n & (n - 1)) != 0) --n;
    return n;
  }

 public:
  static constexpr int step = rows_at_once();
  static_assert(step > 0,
                "ringattn: a row of a tile has more 16-byte chunks than the block has threads; take more warps");

  __device__ static int row() { return int(threadIdx.x) / chunks; }
  __device__ static int chunk() { return int(threadIdx.x) % chunks; }
  /// f(first): the share has row first + row().
  template <int unroll = rows, class F> __device__ static void each(F f) {
    if (threads != step * chunks && row() >= step) return;
#pragma unroll unroll
    for (int first = 0; first < rows; first += step)
      if (rows % step == 0 || first + row() < rows) f(first);
  }
};

}  // namespace detail

/// `rows` x `columns` elements of a precision at `address` in shared memory, aligned to 128. The block has `threads`
/// threads.
template <class Mma_, int rows_, int columns_, int threads> struct SharedTile {
  using Mma = Mma_;
  using T = typename Mma::Element;
  static constexpr int rows = rows_, columns = columns_;
  static constexpr int pitch = columns * int(sizeof(T)), chunks = pitch / 16;
  static constexpr int bytes = rows * pitch;
  static constexpr int per_chunk = 16 / int(sizeof(T));
  static_assert(pitch % 16 == 0, "ringattn: head_dim and value_dim must be a multiple of 16 bytes");

  Word address;

  /// How many chunks are exchanged among each other, and for how many rows in the same way.
  static constexpr int group = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : chunks % 2 == 0 ? 2 : 1;
  /// A row's chunks are exchanged by XOR with this, such that the banks give eight rows of a chunk at once. Elements of
  /// 32 bits are also read in two neighbouring chunks of four rows: of every second one (product.cuh) and of four in
  /// sequence (gradients.cuh).
  __device__ static constexpr Word turn(int row) {
    Word const i = Word(row / (8 / group)) % group;
    return per_chunk == 4 && group > 2 ? i ^ i % 2 * (group / 2) : i;
  }
  __device__ Word at(int row, int chunk) const {
    return address + Word(row * pitch) + ((Word(chunk) ^ turn(row)) << 4);
  }

  /// Fills the first `count` rows from rows that start at `from`, the others with zeros. Asynchronous where the tensor
  /// allows it: follow with commit_copies, wait_copies and a barrier.
  __device__ void fill(RowsOf<T const> const& tensor, T const* from, int count) const {
    if (!tensor.chunks) {
      fill_by_elements(tensor, from, count);
      return;
    }
    // One pointer that moves on, rather than a product per chunk for the compiler to keep.
    T const* p = from + Share::row() * tensor.row + Share::chunk() * per_chunk;
    Share::each([&](int first) {
      ptx::copy_16(mine(first), p, first + Share::row() < count);
      p += Share::step * tensor.row;
    });
  }

  /// Does this thread's share of the tile hold an infinity or a NaN? Legal after its own wait_copies, before the
  /// barrier.
  __device__ bool special() const {
    bool found = false;
    Share::each([&](int first) {
      Word x[4];
      ptx::load_words(x, mine(first));
      for (Word w : x) found = found || Mma::special(w);
    });
    return found;
  }
  /// Replaces each word of this thread's share by f(word).
  template <class F> __device__ void transform(F f) const {
    Share::template each<1>([&](int first) {
      Word x[4];
      ptx::load_words(x, mine(first));
      for (Word& w : x) w = f(w);
      ptx::store_words(mine(first), x);
    });
  }
  /// Element (row, column).
  __device__ float element(int row, int column) const {
    Word const x = ptx::load_word(at(row, column / per_chunk) + Word(column % per_chunk * int(sizeof(T))) / 4 * 4);
    return Mma::element(x, column);
  }

 private:
  using Share = detail::Share<rows, chunks, threads>;

  /// at(first + row(), chunk()) of the share: the bits of `first` and of row() do not overlap, or do not turn.
  __device__ Word mine(int first) const {
    return address + Word((first + Share::row()) * pitch) +
           ((Word(Share::chunk()) ^ turn(Share::row()) ^ turn(first)) << 4);
  }
  __device__ void fill_by_elements(RowsOf<T const> const& tensor, T const* from, int count) const {
    Share::template each<1>([&](int first) {
      Word x[4] = {};
      int const row = first + Share::row();
      if (row < count) {
        T const* const p = from + row * tensor.row + Share::chunk() * per_chunk * tensor.dim;
#pragma unroll
        for (int e = 0; e < per_chunk; ++e)
          if constexpr (sizeof(T) == 2)
            x[e / 2] |= Word(p[e * tensor.dim].bits) << (e % 2 * 16);
          else
            x[e] = __float_as_uint(p[e * tensor.dim]);
      }
      ptx::store_words(mine(first), x);
    });
  }
};

}  // namespace ringattn::cuda
