#include "quant/linear/packed_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "core/team.h"

namespace quant {

namespace {

// One number for all groups, if that is what there is.
std::optional<float> constant(const at::Tensor& zero) {
  if (zero.numel() == 0) return std::nullopt;
  const float first = zero.reshape({-1})[0].item<float>();
  if (!(zero == first).all().item<bool>()) return std::nullopt;
  return first;
}

// As the kernels round them.
std::shared_ptr<const InputQuantizer> int8_inputs(const kernels::Layout& layout) {
  ActivationConfig config;
  config.bits = 8;
  config.symmetry = "narrow";
  if (layout.has_input_groups()) {
    config.granularity = "per_group";
    config.group_size = kernels::kInputGroup;
  }
  return make_input_quantizer(config, "packed", layout.columns);
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
    : layout_(layout),
      words_(at::empty({layout.words()}, at::kInt)),
      data_(reinterpret_cast<const uint32_t*>(words_.const_data_ptr<int32_t>())) {
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

std::unique_ptr<PackedWeight> PackedWeight::make(const WeightFormat& format, const core::Codes& codes,
                                                 const Parameters& parameters, const Execution& execution,
                                                 std::string& reason) {
  const int64_t O = codes.rows(), I = codes.columns(), bits = codes.bits();
  reason.clear();
  if (!codes.device().is_cpu()) reason = "it is not on the CPU";
  if (!kernels::Layout::fits(bits)) reason = fmt::format("no kernel has {}-bit codes", bits);
  if (!reason.empty()) return nullptr;
  const std::optional<PackedForm> form = format.packed_form(parameters, O, I);
  if (!form) {
    reason = fmt::format("no kernel decodes {}", format.name());
    return nullptr;
  }
  const int64_t window_bits = form->window_bits;
  if (window_bits > 0 && !kernels::Layout::fits_windows(O, I, bits, form->grid.group_size)) {
    reason = fmt::format("no kernel decodes {} of {} bits in groups of {}", format.name(), bits, form->grid.group_size);
    return nullptr;
  }
  std::unique_ptr<PackedWeight> packed(new PackedWeight);
  packed->execution_ = execution;
  packed->kernel_ = &kernels::chosen_kernel();
  packed->codes_ = interleaved(codes, kernels::Layout::of(O, I, bits, form->grid.group_size, window_bits));
  const std::vector<float>& table = form->grid.table;
  if (!table.empty()) packed->table_ = at::tensor(table);
  packed->table_hash_ =
      std::hash<std::string_view>()({reinterpret_cast<const char*>(table.data()), table.size() * sizeof(float)});
  packed->add_set(form->grid);
  for (const ElementGrid& grid : form->further) packed->add_set(grid);
  const auto ready = [](const at::Tensor& t) { return t.defined() ? t.detach().contiguous() : at::Tensor(); };
  packed->rows_ = ready(form->rows);
  packed->columns_ = ready(form->columns);
  packed->a_ = ready(form->a);
  packed->b_ = ready(form->b);
  if (execution.precision == kernels::Precision::integer) {
    packed->input_ = int8_inputs(packed->layout());
    // Products of int8 inputs with factors are no int8 numbers, levels of a table no integers: these sums are of
    // floats.
    const bool are_int8 = !packed->table_.defined() && !packed->rows_.defined() && format.is_weight();
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

at::Tensor PackedWeight::product(const at::Tensor& x) const { return finished(x, codes_product(multiplied(x))); }

// Σ_i Σ_r rows[o, r] columns[i, r] level[o, i] x[i] = Σ_r rows[o, r] (level · (columns_r ∘ x))[o]: R inputs.
at::Tensor PackedWeight::multiplied(const at::Tensor& x) const {
  const at::Tensor inputs = rows_.defined() ? (x.unsqueeze(1) * columns_.t()).flatten(0, 1) : x;  // [n, R, I]
  return inputs.to(at::kFloat).contiguous();
}

// Without factors y itself.
at::Tensor PackedWeight::finished(const at::Tensor& x, const at::Tensor& y) const {
  at::Tensor out = rows_.defined() ? y.unflatten(0, {x.size(0), -1}).mul(rows_.t()).sum(1) : y;
  if (a_.defined()) out.add_(at::linear(at::linear(rounds_itself() ? rounded(x) : x, a_), b_));
  return out;
}

at::Tensor PackedWeight::codes_product(const at::Tensor& x) const {
  if (sets_.size() == 1) return run(x, sets_);
  at::Tensor all;  // for one input with one load of the codes
  if (x.size(0) == 1) all = run(x, sets_);
  at::Tensor sum;
  for (size_t r = 0; r < sets_.size(); ++r) {
    const at::Tensor one = all.defined() ? all.narrow(0, static_cast<int64_t>(r), 1) : run(x, {sets_[r]});
    sum = r == 0 ? one : sum.add_(one);
  }
  return sum;
}

bool PackedWeight::shares_codes_with(const PackedWeight& other) const {
  return codes_ == other.codes_ && precision_ == other.precision_ && table_hash_ == other.table_hash_ &&
         sets_.size() == 1 && other.sets_.size() == 1;
}

at::Tensor PackedWeight::product_beside(const std::vector<const PackedWeight*>& all, const at::Tensor& x) {
  const int64_t R = std::ssize(all);
  const auto of = [&](int64_t r) { return x[x.size(0) == 1 ? 0 : r]; };
  std::vector<at::Tensor> inputs;
  std::vector<int64_t> counts;
  std::vector<kernels::Parameters> sets;  // one per input
  bool has_factors = false;
  for (int64_t r = 0; r < R; ++r) {
    has_factors = has_factors || all[r]->rows_.defined();
    inputs.push_back(all[r]->multiplied(of(r)));
    counts.push_back(inputs.back().size(0));
    sets.insert(sets.end(), counts.back(), all[r]->sets_.front());
  }
  const bool is_one_input = x.size(0) == 1 && x.size(1) == 1 && !has_factors;
  const at::Tensor y = all.front()->run(is_one_input ? inputs.front() : at::cat(inputs), sets);
  std::vector<at::Tensor> outputs = y.split_with_sizes(counts);
  for (int64_t r = 0; r < R; ++r) outputs[r] = all[r]->finished(of(r), outputs[r]);
  return has_factors ? at::stack(outputs) : y.unflatten(0, {R, -1});  // finished in place
}

bool PackedWeight::reads_like(const PackedWeight& other) const {
  const auto is_plain = [](const PackedWeight& w) {
    return w.sets_.size() == 1 && !w.rows_.defined() && !w.a_.defined();
  };
  const kernels::Layout &own = layout(), &its = other.layout();
  return is_plain(*this) && is_plain(other) && precision_ == other.precision_ &&
         (input_ == nullptr) == (other.input_ == nullptr) && kernel_ == other.kernel_ &&
         execution_.most_rows == other.execution_.most_rows && own.columns == its.columns &&
         own.group_size == its.group_size && own.span == its.span;
}

namespace {

// The same inputs, count of them, times several weights: tiles of the first, then of the next.
void run_tiles(const kernels::Kernel& kernel, const std::vector<kernels::Product>& products) {
  constexpr int64_t kGrain = 1 << 16;  // products per range: microseconds
  int64_t tiles = 0;
  for (const kernels::Product& product : products) tiles += product.layout->tiles();
  const kernels::Product& first = products.front();
  const int64_t grain = 1 + kGrain / (kernels::kTileRows * first.layout->columns * first.inputs->count);
  const auto multiply = [&](int64_t begin, int64_t end) {
    for (const kernels::Product& product : products) {
      const int64_t own = product.layout->tiles();
      if (begin < own && end > 0) kernel.run(product, std::max<int64_t>(begin, 0), std::min(end, own));
      begin -= own;
      end -= own;
    }
  };
  if (first.inputs->count == 1) return core::share_ranges(tiles, grain, multiply);
  at::parallel_for(0, tiles, grain, multiply);  // long loops, between others of OpenMP's threads
}

kernels::Inputs& thread_inputs() {
  thread_local kernels::Inputs inputs;
  return inputs;
}

}  // namespace

std::vector<at::Tensor> PackedWeight::product_each(const std::vector<const PackedWeight*>& all, const at::Tensor& x) {
  const PackedWeight& one = *all.front();
  const at::Tensor in = x.to(at::kFloat).contiguous();
  const int64_t m = in.size(0), I = one.layout().columns;
  std::vector<at::Tensor> outputs;
  for (const PackedWeight* weight : all) outputs.push_back(at::empty({m, weight->layout().rows}, in.options()));
  kernels::Inputs& inputs = thread_inputs();
  std::vector<kernels::Product> products(all.size());
  for (int64_t first = 0; first < m; first += kernels::kMostInputs) {
    inputs.prepare(one.layout(), one.precision_, in.const_data_ptr<float>() + first * I,
                   std::min(kernels::kMostInputs, m - first), I);
    for (size_t i = 0; i < all.size(); ++i) products[i] = all[i]->product_of(all[i]->sets_, outputs[i], first);
    run_tiles(*one.kernel_, products);
  }
  return outputs;
}

kernels::Product PackedWeight::product_of(std::span<const kernels::Parameters> sets, const at::Tensor& out,
                                          int64_t first) const {
  const int64_t O = layout().rows;
  return {.layout = &layout(),
          .codes = codes_->words(),
          .sets = sets.data(),
          .set_count = std::ssize(sets),
          .inputs = &thread_inputs(),
          .out = out.mutable_data_ptr<float>() + first * O,
          .out_stride = O};
}

at::Tensor PackedWeight::run(const at::Tensor& x, const std::vector<kernels::Parameters>& sets) const {
  const int64_t m = x.size(0), I = layout().columns, R = std::ssize(sets);
  const at::Tensor y = at::empty({std::max(m, R), layout().rows}, x.options());
  for (int64_t first = 0; first < m; first += kernels::kMostInputs) {
    const int64_t n = std::min(kernels::kMostInputs, m - first);
    thread_inputs().prepare(layout(), precision_, x.const_data_ptr<float>() + first * I, n, I);
    std::span<const kernels::Parameters> own = sets;
    if (R > 1 && m > 1) own = own.subspan(first, n);
    const auto is_first = [&](const kernels::Parameters& set) { return set.values == own.front().values; };
    if (m > 1 && std::all_of(own.begin(), own.end(), is_first)) own = own.first(1);
    run_tiles(*kernel_, {product_of(own, y, first)});
  }
  return y;
}

}  // namespace quant
