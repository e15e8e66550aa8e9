#include "export/huggingface/packed.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/codes.h"

namespace exports {

namespace {

// Rows of codes as streams of words: [R, C] uint8 -> [R, C b / 32] int32.
at::Tensor words_of(const at::Tensor& codes, int64_t bits) {
  TORCH_CHECK(codes.size(1) * bits % 32 == 0, codes.size(1), " codes of ", bits, " bits are no whole words");
  return core::Codes::pack(codes.contiguous(), bits).packed().cpu().contiguous().view(at::kInt);
}

// Zero points of all groups, [O, G] uint8.
at::Tensor zeros_of(const quant::QuantizedLinear& linear) {
  const quant::WeightConfig& weight = linear.format().config();
  const quant::Parameters& parameters = linear.parameters();
  if (parameters.has("zero_point")) return parameters.at("zero_point").cpu();
  return at::full(parameters.at("scale").sizes(), int64_t{1} << (weight.bits - 1), at::kByte);
}

at::Tensor scales_of(const quant::QuantizedLinear& linear) {
  return linear.parameters().at("scale").detach().cpu().to(at::kHalf);
}

}  // namespace

PackedGrid packed_grid(const quant::WeightConfig& weight) {
  return {weight.bits, weight.group_size, weight.symmetry != "asymmetric"};
}

std::string not_packed(const quant::WeightConfig& weight) {
  if (weight.codebook != "uniform") return fmt::format("codebook: {} has no equal steps", weight.codebook);
  if (weight.symmetry == "midrise") return "symmetry: midrise has no level 0";
  if (weight.symmetry == "asymmetric" && weight.zero_point != "int")
    return fmt::format("zero_point: {} is no integer", weight.zero_point);
  if (weight.scale_bits > 0) return "scale_bits: scales of two levels are stored as one float each";
  if (weight.scale_dtype != "float16")
    return fmt::format("scale_dtype: {} where float16 is stored", weight.scale_dtype);
  if (weight.offset != 0) return "offset: levels are multiples of the scale";
  if (weight.group_size == 0) return "group_size: 0 shares a scale between rows";
  if (weight.incoherence.selected()) return "incoherence rotates inputs and outputs";
  return {};
}

NamedTensors gptq_tensors(const quant::QuantizedLinear& linear) {
  const int64_t bits = linear.format().config().bits, I = linear.in_features(), G = linear.format().groups(I);
  return {{"qweight", words_of(linear.codes().unpack(), bits).t().contiguous()},
          {"qzeros", words_of(zeros_of(linear).t(), bits)},
          {"scales", scales_of(linear).t().contiguous()},
          {"g_idx", at::arange(I, at::kInt).div(I / G, "floor").to(at::kInt)}};
}

NamedTensors compressed_tensors(const quant::QuantizedLinear& linear) {
  const quant::WeightConfig& weight = linear.format().config();
  NamedTensors all{{"weight_packed", words_of(linear.codes().unpack(), weight.bits)},
                   {"weight_scale", scales_of(linear)},
                   {"weight_shape", at::tensor({linear.out_features(), linear.in_features()}, at::kLong)}};
  if (!packed_grid(weight).symmetric)
    all.emplace_back("weight_zero_point", words_of(zeros_of(linear).t(), weight.bits).t().contiguous());
  return all;
}

}  // namespace exports
