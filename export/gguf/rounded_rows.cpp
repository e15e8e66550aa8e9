#include "export/gguf/rounded_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/io/ggml_encode.h"
#include "export/gguf/coded_rows.h"
#include "quant/grids/ggml_grid.h"
#include "quant/grids/make_format.h"

namespace exports {

namespace {

using core::GgmlType;

bool is(const GgmlType& type, std::string_view name) { return type.name == name; }

at::ScalarType dtype_of(const GgmlType& type) {
  if (is(type, "F16")) return at::kHalf;
  return is(type, "BF16") ? at::kBFloat16 : at::kFloat;
}

std::vector<std::byte> bytes_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  std::vector<std::byte> bytes(flat.nbytes());
  std::memcpy(bytes.data(), flat.const_data_ptr(), bytes.size());
  return bytes;
}

// 32 weights: q = round(w / d) with d = max|w| / 127 in float16.
void put_q8_0(const GgmlType& type, const float* w, std::byte* to) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(w[i]));
  core::GgmlBlock block{};
  block.scale = core::float_of_half(core::half_of_float(largest / 127));
  for (int i = 0; i < 32; ++i) {
    const float q = block.scale > 0 ? std::nearbyint(w[i] / block.scale) : 0;
    block.codes[static_cast<size_t>(i)] = static_cast<uint8_t>(static_cast<int>(std::clamp(q, -127.0f, 127.0f)) + 128);
  }
  core::put_together(type, block, to);
}

std::vector<std::byte> q8_0(const at::Tensor& w, const GgmlType& type) {
  const int64_t blocks = w.numel() / type.block;
  std::vector<std::byte> bytes(static_cast<size_t>(blocks) * type.block_bytes);
  const float* from = w.const_data_ptr<float>();
  at::parallel_for(0, blocks, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      put_q8_0(type, from + b * type.block, bytes.data() + static_cast<size_t>(b) * type.block_bytes);
  });
  return bytes;
}

at::Tensor decoded(const std::vector<std::byte>& bytes, const at::Tensor& like, const GgmlType& type) {
  at::Tensor w = at::empty_like(like);
  type.decode(bytes.data(), w.numel() / type.block, w.mutable_data_ptr<float>());
  return w;
}

bool holds(const GgmlType& type, const at::Tensor& w) {
  if (is(type, "F32")) return true;
  if (!is(type, "Q8_0")) return at::equal(w.to(dtype_of(type)).to(at::kFloat), w);
  if (w.size(1) % type.block != 0) return false;
  const at::Tensor first = w.narrow(0, 0, 1).contiguous();  // where it fails, it mostly fails at once
  return at::equal(decoded(q8_0(first, type), first, type), first) && at::equal(decoded(q8_0(w, type), w, type), w);
}

}  // namespace

RoundedRows rows_of(const at::Tensor& w, const GgmlType& type) {
  RoundedRows rows{};
  if (type.take_apart == nullptr) {
    rows.bytes = bytes_of(w.to(dtype_of(type)));
  } else {
    core::require(w.size(1) % type.block == 0, "rows of {} weights are no whole blocks of {}. Choose another type.",
                  w.size(1), type.name);
    if (is(type, "Q8_0")) {
      rows.bytes = q8_0(w, type);
    } else {
      quant::WeightConfig config = quant::weight_config_of(type.grid, type.block);
      config.range = "mse";
      config.range_search.both_signs = !type.grid.has_minimum;
      const auto format = quant::make_format(config, "", w.size(1));
      auto bytes = CodedRows(*format, format->encode(w, format->fit(w, {}))).in(type);
      TORCH_CHECK(bytes.has_value(), type.name, " does not hold its own grid");
      rows.bytes = *std::move(bytes);
    }
  }
  rows.error = at::sub(decoded(rows.bytes, w, type), w).square().sum().item<double>();
  return rows;
}

const GgmlType* exact_float_type(const std::vector<at::Tensor>& weights) {
  for (const char* name : {"Q8_0", "BF16", "F16"}) {
    const GgmlType* type = core::find_ggml_type(name);
    if (std::all_of(weights.begin(), weights.end(), [&](const at::Tensor& w) { return holds(*type, w); })) return type;
  }
  return core::find_ggml_type("F32");
}

}  // namespace exports
