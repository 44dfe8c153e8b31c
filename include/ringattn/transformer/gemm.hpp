// SPDX-License-Identifier: Apache-2.0
// Matrix products: the seam to a BLAS. Plug another by passing any type with the same call operator.
#pragma once

#include <limits>

#include "matrix.hpp"

#if defined(RINGATTN_WITH_BLAS)
#include <cblas.h>
#endif

namespace ringattn::inline RINGATTN_ABI {

enum class Op { plain, transposed };

/// `gemm(op_a, a, op_b, b, beta, c)`: c = op_a(a) op_b(b) + beta c; with beta 0, c is not read. The shapes fit and no
/// operand overlaps c. Called from several threads at once, on one object per thread; must give the same bits for the
/// same operands, and allocate nothing that matters.
template <class G, class T>
concept Gemm = std::semiregular<G> && requires(G g, Op op, Matrix<T const> in, T beta, Matrix<T> out) {
  g(op, in, op, in, beta, out);
};

/// Plain loops, for machines without a BLAS.
struct PlainGemm {
  template <Real T>
  void operator()(Op op_a, std::type_identity_t<Matrix<T const>> a, Op op_b, std::type_identity_t<Matrix<T const>> b,
                  std::type_identity_t<T> beta, Matrix<T> c) const {
    int64_t const depth = op_a == Op::plain ? a.cols : a.rows;
    for (int64_t i = 0; i < c.rows; ++i) {
      T* RINGATTN_RESTRICT const out = c.row(i);
      for (int64_t j = 0; j < c.cols; ++j) out[j] = beta == T(0) ? T(0) : beta * out[j];
      if (op_b == Op::transposed && op_a == Op::plain) {
        for (int64_t j = 0; j < c.cols; ++j) out[j] += detail::dot(a.row(i), b.row(j), depth);
        continue;
      }
      for (int64_t k = 0; k < depth; ++k) {
        T const factor = op_a == Op::plain ? a(i, k) : a(k, i);
        if (op_b == Op::plain) {
          T const* RINGATTN_RESTRICT const in = b.row(k);
          for (int64_t j = 0; j < c.cols; ++j) out[j] += factor * in[j];
        } else {
          for (int64_t j = 0; j < c.cols; ++j) out[j] += factor * b(j, k);
        }
      }
    }
  }
};

#if defined(RINGATTN_WITH_BLAS)
/// CBLAS. Runs on the calling thread only if the library is told so: with P ranks in one process and OpenBLAS, call
/// openblas_set_num_threads(1) once. Throws Error{invalid_argument} if a dimension does not fit CBLAS's integers.
struct Blas {
  template <Real T>
  void operator()(Op op_a, std::type_identity_t<Matrix<T const>> a, Op op_b, std::type_identity_t<Matrix<T const>> b,
                  std::type_identity_t<T> beta, Matrix<T> c) const {
    int64_t const depth = op_a == Op::plain ? a.cols : a.rows;
    if (c.rows == 0 || c.cols == 0) return;
    auto const trans = [](Op op) { return op == Op::plain ? CblasNoTrans : CblasTrans; };
    int const m = narrow(c.rows), n = narrow(c.cols), k = narrow(depth);
    int const lda = narrow(a.stride), ldb = narrow(b.stride), ldc = narrow(c.stride);
    if constexpr (std::is_same_v<T, float>)
      cblas_sgemm(CblasRowMajor, trans(op_a), trans(op_b), m, n, k, 1, a.data, lda, b.data, ldb, beta, c.data, ldc);
    else
      cblas_dgemm(CblasRowMajor, trans(op_a), trans(op_b), m, n, k, 1, a.data, lda, b.data, ldb, beta, c.data, ldc);
  }

 private:
  static int narrow(int64_t n) {
    if (n > std::numeric_limits<int>::max())
      throw Error(ErrorCode::invalid_argument, -1, "matrix dimension", "at most 2^31 - 1 for CBLAS", std::to_string(n));
    return int(n);
  }
};
using DefaultGemm = Blas;
#else
using DefaultGemm = PlainGemm;
#endif

static_assert(Gemm<PlainGemm, float> && Gemm<DefaultGemm, float> && Gemm<DefaultGemm, double>);

}  // namespace ringattn
