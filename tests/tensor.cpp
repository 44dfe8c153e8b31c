// SPDX-License-Identifier: Apache-2.0
// Problems, extents and views: defaults, strides, layouts and conversions.
#include <ringattn/tensor.hpp>

#include <doctest/doctest.h>

using namespace ringattn;

TEST_CASE("problem: what is left out is as its neighbour") {
  Problem const p = Problem{.batch = 2, .seq = 9, .heads = 6}.resolved();
  CHECK(p.kv_seq == 9);
  CHECK(p.kv_heads == 6);
  Problem const x = Problem{.seq = 9, .kv_seq = 0, .heads = 6, .kv_heads = 2}.resolved();
  CHECK(x.kv_seq == 0);
  CHECK(x.kv_heads == 2);
  CHECK(x.resolved() == x);
}

TEST_CASE("extents: count and text") {
  Extents const e{2, 3, 4, 5};
  CHECK(e.count() == 120);
  CHECK(to_string(e) == "[2, 3, 4, 5]");
  CHECK(Extents{1, int64_t(1) << 33, 1, 1}.count() == int64_t(1) << 33);
}

TEST_CASE("view: dense, head-major, strided and const") {
  Extents const e{2, 3, 4, 5};
  Tensor<float> t(e);
  for (size_t i = 0; i < t.values().size(); ++i) t.values()[i] = float(i);
  View<float> const dense = t;
  CHECK(dense(1, 2, 3, 4) == 119);
  CHECK(dense(0, 1, 0, 0) == 20);
  CHECK(dense.row(1, 0, 2) == t.values().data() + 60 + 10);

  auto const travelling = View<float>::head_major(t.values().data(), e);
  CHECK(travelling(0, 1, 0, 0) == 5);
  CHECK(travelling(0, 0, 1, 0) == 15);
  CHECK(travelling(1, 2, 3, 4) == 119);

  View<float> const reversed(t.values().data() + 119, e, {-60, -20, -5, -1});
  CHECK(reversed(0, 0, 0, 0) == 119);
  CHECK(reversed(1, 2, 3, 4) == 0);

  View<float const> const c = dense;
  CHECK(c.data == dense.data);
  CHECK(c.stride[1] == dense.stride[1]);
  CHECK_FALSE(View<float>());
  CHECK(std::is_convertible_v<View<float>, View<float const>>);
  CHECK_FALSE(std::is_convertible_v<View<float const>, View<float>>);
  CHECK_FALSE(std::is_convertible_v<View<float, HostSpace>, View<float, DeviceSpace>>);
}

TEST_CASE("tensor: zero-initialised, also with no rows") {
  Tensor<double> const t(Extents{1, 2, 1, 2});
  for (double x : t.values()) CHECK(x == 0);
  CHECK(Tensor<float>(Extents{1, 0, 8, 64}).values().empty());
  CHECK(Tensor<float>().extents().count() == 0);
}
