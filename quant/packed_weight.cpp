#include "quant/packed_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <algorithm>
#include <optional>

namespace quant {

namespace {

// One number for all groups, if that is what there is.
std::optional<float> constant(const at::Tensor& zero) {
  if (zero.numel() == 0) return std::nullopt;
  const float first = zero.reshape({-1})[0].item<float>();
  if (!(zero == first).all().item<bool>()) return std::nullopt;
  return first;
}

std::shared_ptr<const InputQuantizer> int8_inputs(int64_t in_features) {
  ActivationConfig config;
  config.bits = 8;
  config.symmetry = "narrow";
  return make_input_quantizer(config, "packed", in_features);
}

}  // namespace

std::unique_ptr<PackedWeight> PackedWeight::make(const Decoder& decoder, const core::Codes& codes,
                                                 const Parameters& parameters, const Execution& execution,
                                                 std::string& reason) {
  const int64_t O = codes.rows(), I = codes.columns(), bits = codes.bits();
  reason.clear();
  if (!codes.packed().is_cpu()) reason = "it is not on the CPU";
  if (!kernels::Layout::fits(bits)) reason = fmt::format("no kernel has {}-bit codes", bits);
  if (!reason.empty()) return nullptr;
  const std::optional<PackedForm> form = decoder.packed_form(parameters, O, I);
  if (!form) {
    reason = fmt::format("no kernel decodes {}", decoder.name());
    return nullptr;
  }
  const int64_t window_bits = form->window_bits;
  if (window_bits > 0 && !kernels::Layout::fits_windows(O, I, bits, form->grid.group_size)) {
    reason =
        fmt::format("no kernel decodes {} of {} bits in groups of {}", decoder.name(), bits, form->grid.group_size);
    return nullptr;
  }
  std::unique_ptr<PackedWeight> packed(new PackedWeight);
  packed->execution_ = execution;
  packed->kernel_ = &kernels::chosen_kernel();
  if (execution.precision == kernels::Precision::integer) packed->input_ = int8_inputs(I);
  const kernels::Layout layout = packed->layout_ = kernels::Layout::of(O, I, bits, form->grid.group_size, window_bits);
  packed->words_ = at::empty({layout.words()}, at::kInt);
  kernels::fill_codes(layout, codes.packed().const_data_ptr<uint8_t>(),
                      reinterpret_cast<uint32_t*>(packed->words_.mutable_data_ptr<int32_t>()));

  const at::Tensor scale = form->grid.scale.detach().contiguous();
  const bool has_table = !form->grid.table.empty();
  at::Tensor zero;  // [O, G], where it is not one number
  kernels::Parameters& set = packed->parameters_;
  if (has_table) {
    packed->table_ = at::tensor(form->grid.table);
    set.table = packed->table_.const_data_ptr<float>();
  } else if (const std::optional<float> same = constant(form->grid.shift)) {
    set.constant_zero = *same;
  } else {
    zero = form->grid.shift.detach().contiguous();
  }
  set.has_zeros = zero.defined();
  const auto is_half = [](const at::Tensor& t) {
    return !t.defined() || kernels::fits_half(t.const_data_ptr<float>(), t.numel());
  };
  set.is_half = is_half(scale) && is_half(zero);
  packed->values_ =
      at::empty({kernels::parameter_values(layout, set.has_zeros)}, set.is_half ? at::kShort : at::kFloat);
  kernels::fill_parameters(layout, scale.const_data_ptr<float>(),
                           zero.defined() ? zero.const_data_ptr<float>() : nullptr, set.is_half,
                           packed->values_.mutable_data_ptr());
  set.values = packed->values_.const_data_ptr();
  packed->rows_ = form->rows.defined() ? form->rows.detach().contiguous() : at::Tensor();
  packed->columns_ = form->columns.defined() ? form->columns.detach().contiguous() : at::Tensor();
  return packed;
}

// Σ_i Σ_r rows[o, r] columns[i, r] level[o, i] x[i] = Σ_r rows[o, r] (level · (columns_r ∘ x))[o]: R inputs.
at::Tensor PackedWeight::product(const at::Tensor& x) const {
  const bool is_integer = execution_.precision == kernels::Precision::integer;
  // Products of int8 inputs with factors are no int8 numbers, levels of a table no integers: these sums are of floats.
  if (!has_factors()) {
    return table_.defined() ? codes_product(rounded(x), kernels::Precision::real)
                            : codes_product(x, execution_.precision);
  }
  const int64_t n = x.size(0), R = rows_.size(1);
  const at::Tensor inputs = (is_integer ? rounded(x) : x).unsqueeze(1) * columns_.t();  // [n, R, I]
  const at::Tensor y = codes_product(inputs.reshape({n * R, layout_.columns}), kernels::Precision::real);
  return (y.reshape({n, R, layout_.rows}) * rows_.t()).sum(1);
}

at::Tensor PackedWeight::codes_product(const at::Tensor& x, kernels::Precision precision) const {
  constexpr int64_t kGrain = 1 << 15;  // codes per task, so that a task is worth its start
  const at::Tensor source = x.to(at::kFloat).contiguous();
  const int64_t m = source.size(0), O = layout_.rows, I = layout_.columns;
  at::Tensor y = at::empty({m, O}, source.options());
  const int64_t grain = std::max<int64_t>(1, kGrain / (kernels::kTileRows * I));
  thread_local kernels::Inputs inputs;
  for (int64_t first = 0; first < m; first += kernels::kMostInputs) {
    const int64_t n = std::min(kernels::kMostInputs, m - first);
    inputs.prepare(layout_, precision, source.const_data_ptr<float>() + first * I, n, I);
    const kernels::Product product{.layout = &layout_,
                                   .codes = reinterpret_cast<const uint32_t*>(words_.const_data_ptr<int32_t>()),
                                   .sets = &parameters_,
                                   .set_count = 1,
                                   .inputs = &inputs,
                                   .out = y.mutable_data_ptr<float>() + first * O,
                                   .out_stride = O};
    at::parallel_for(0, layout_.tiles(), grain, [&](int64_t begin, int64_t end) { kernel_->run(product, begin, end); });
  }
  return y;
}

}  // namespace quant
