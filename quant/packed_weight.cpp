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

// The codes in `layout`: as they are kept, if it is that one; as they are kept from now on, if they are canonical.
std::shared_ptr<const InterleavedCodes> interleaved(const core::Codes& codes, const kernels::Layout& layout) {
  const auto kept = std::dynamic_pointer_cast<const InterleavedCodes>(codes.order());
  if (kept != nullptr && kept->layout() == layout) return kept;
  auto made = std::make_shared<InterleavedCodes>(layout, codes);
  if (codes.order() == nullptr) codes.keep_as(made);
  return made;
}

}  // namespace

InterleavedCodes::InterleavedCodes(const kernels::Layout& layout, const core::Codes& codes)
    : layout_(layout), words_(at::empty({layout.words()}, at::kInt)) {
  kernels::fill_codes(layout_, codes.packed().const_data_ptr<uint8_t>(),
                      reinterpret_cast<uint32_t*>(words_.mutable_data_ptr<int32_t>()));
}

at::Tensor InterleavedCodes::unpack_rows(const at::Tensor& index) const {
  const at::Tensor rows = index.to(at::kLong).contiguous();
  const int64_t n = rows.numel(), I = layout_.columns;
  const at::Tensor codes = at::empty({n, I}, at::kByte);
  const auto* row = rows.const_data_ptr<int64_t>();
  auto* to = codes.mutable_data_ptr<uint8_t>();
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / I);
  at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernels::read_codes(layout_, words(), row[i], to + i * I);
  });
  return codes;
}

std::unique_ptr<PackedWeight> PackedWeight::make(const Decoder& decoder, const core::Codes& codes,
                                                 const Parameters& parameters, const Execution& execution,
                                                 std::string& reason) {
  const int64_t O = codes.rows(), I = codes.columns(), bits = codes.bits();
  reason.clear();
  if (!codes.device().is_cpu()) reason = "it is not on the CPU";
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
  packed->codes_ = interleaved(codes, kernels::Layout::of(O, I, bits, form->grid.group_size, window_bits));
  if (!form->grid.table.empty()) packed->table_ = at::tensor(form->grid.table);
  packed->add_set(form->grid);
  for (const ElementGrid& grid : form->further) packed->add_set(grid);
  const auto ready = [](const at::Tensor& t) { return t.defined() ? t.detach().contiguous() : at::Tensor(); };
  packed->rows_ = ready(form->rows);
  packed->columns_ = ready(form->columns);
  packed->a_ = ready(form->a);
  packed->b_ = ready(form->b);
  if (execution.precision == kernels::Precision::integer) {
    packed->input_ = int8_inputs(I);
    // Products of int8 inputs with factors are no int8 numbers, levels of a table no integers: these sums are of
    // floats.
    const bool are_int8 = !packed->table_.defined() && !packed->rows_.defined() && decoder.is_weight();
    if (are_int8) packed->precision_ = kernels::Precision::integer;
  }
  return packed;
}

void PackedWeight::add_set(const ElementGrid& grid) {
  const at::Tensor scale = grid.scale.detach().contiguous();
  at::Tensor zero;  // [O, G], where it is not one number
  kernels::Parameters set;
  if (table_.defined()) {
    set.table = table_.const_data_ptr<float>();
  } else if (const std::optional<float> same = constant(grid.shift)) {
    set.constant_zero = *same;
  } else {
    zero = grid.shift.detach().contiguous();
  }
  set.has_zeros = zero.defined();
  const auto is_half = [](const at::Tensor& t) {
    return !t.defined() || kernels::fits_half(t.const_data_ptr<float>(), t.numel());
  };
  set.is_half = is_half(scale) && is_half(zero);
  const at::Tensor values =
      at::empty({kernels::parameter_values(layout(), set.has_zeros)}, set.is_half ? at::kShort : at::kFloat);
  kernels::fill_parameters(layout(), scale.const_data_ptr<float>(),
                           zero.defined() ? zero.const_data_ptr<float>() : nullptr, set.is_half,
                           values.mutable_data_ptr());
  set.values = values.const_data_ptr();
  values_.push_back(values);
  sets_.push_back(set);
}

// Σ_i Σ_r rows[o, r] columns[i, r] level[o, i] x[i] = Σ_r rows[o, r] (level · (columns_r ∘ x))[o]: R inputs.
at::Tensor PackedWeight::product(const at::Tensor& x) const {
  at::Tensor y;
  if (rows_.defined()) {
    const int64_t n = x.size(0), R = rows_.size(1);
    const at::Tensor inputs = x.unsqueeze(1) * columns_.t();  // [n, R, I]
    y = codes_product(inputs.reshape({n * R, layout().columns})).reshape({n, R, layout().rows}).mul(rows_.t()).sum(1);
  } else {
    y = codes_product(x);
  }
  if (a_.defined()) y.add_(at::linear(at::linear(rounds_itself() ? rounded(x) : x, a_), b_));
  return y;
}

at::Tensor PackedWeight::codes_product(const at::Tensor& x) const {
  const at::Tensor source = x.to(at::kFloat).contiguous();
  const int64_t m = source.size(0), O = layout().rows, I = layout().columns, R = std::ssize(sets_);
  const at::Tensor y = R == 1 ? at::empty({m, O}, source.options()) : at::zeros({m, O}, source.options());
  thread_local kernels::Inputs inputs;
  for (int64_t first = 0; first < m; first += kernels::kMostInputs) {
    const int64_t n = std::min(kernels::kMostInputs, m - first);
    inputs.prepare(layout(), precision_, source.const_data_ptr<float>() + first * I, n, I);
    const at::Tensor part = y.narrow(0, first, n);
    if (R == 1) {
      run(inputs, 0, 1, part);
    } else if (n == 1) {  // one load of the codes
      const at::Tensor of_sets = at::empty({R, O}, source.options());
      run(inputs, 0, R, of_sets);
      part.copy_(of_sets.sum(0, /*keepdim=*/true));
    } else {
      const at::Tensor of_set = at::empty({n, O}, source.options());
      for (int64_t r = 0; r < R; ++r) {
        run(inputs, r, 1, of_set);
        part.add_(of_set);
      }
    }
  }
  return y;
}

// out: [inputs or sets, O].
void PackedWeight::run(const kernels::Inputs& inputs, int64_t set, int64_t set_count, const at::Tensor& out) const {
  constexpr int64_t kGrain = 1 << 19;  // codes per task: tens of microseconds, as waking a thread takes
  const int64_t grain = std::max<int64_t>(1, kGrain / (kernels::kTileRows * layout().columns));
  const kernels::Product product{.layout = &layout(),
                                 .codes = codes_->words(),
                                 .sets = sets_.data() + set,
                                 .set_count = set_count,
                                 .inputs = &inputs,
                                 .out = out.mutable_data_ptr<float>(),
                                 .out_stride = layout().rows};
  at::parallel_for(0, layout().tiles(), grain, [&](int64_t begin, int64_t end) { kernel_->run(product, begin, end); });
}

}  // namespace quant
