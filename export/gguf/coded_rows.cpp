#include "export/gguf/coded_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "core/io/ggml_encode.h"

namespace exports {

namespace {

using core::GgmlBlock;
using core::GgmlGrid;
using core::GgmlType;

std::optional<quant::AffineGrid::Levels> levels_of(const quant::WeightFormat& format, const quant::Encoded& encoded) {
  const int64_t O = encoded.codes.size(0), I = encoded.codes.size(1);
  if (const auto* grid = dynamic_cast<const quant::AffineGrid*>(&format)) return grid->levels(encoded.parameters);
  const std::optional<quant::PackedForm> form = format.packed_form(encoded.parameters, O, I);
  const bool plain = form && form->grid.table.empty() && form->window_bits == 0 && form->further.empty() &&
                     !form->rows.defined() && !form->a.defined();
  if (!plain) return std::nullopt;
  return quant::AffineGrid::Levels{
      .shared = form->grid.scale, .multiple = at::ones_like(form->grid.scale), .zero = form->grid.shift};
}

const float* data(const at::Tensor& tensor, int64_t row) {
  return tensor.defined() ? tensor.const_data_ptr<float>() + row * tensor.size(1) : nullptr;
}

bool is_half(float value) { return core::float_of_half(core::half_of_float(value)) == value; }
bool is_integer(float value) { return std::nearbyint(value) == value; }

}  // namespace

struct CodedRows::Row {
  const uint8_t* codes;
  const float* decoded;
  int64_t group;                                                              // S
  const float *shared, *multiple, *zero, *shared_minimum, *minimum_multiple;  // of its groups

  bool stores_minimum() const { return zero == nullptr; }
  float scale(int64_t g) const { return shared[g] * multiple[g]; }
  bool equal(int64_t a, int64_t b) const {
    const bool lower = stores_minimum()
                           ? shared_minimum[a] == shared_minimum[b] && minimum_multiple[a] == minimum_multiple[b]
                           : zero[a] == zero[b];
    return shared[a] == shared[b] && multiple[a] == multiple[b] && lower;
  }
  // The group of `count` columns from `first` on; -1: they have different ones.
  int64_t group_of(int64_t first, int64_t count) const {
    const int64_t g = first / group;
    for (int64_t other = g + 1; other <= (first + count - 1) / group; ++other) {
      if (!equal(g, other)) return -1;
    }
    return g;
  }
};

namespace {

// How levels of ours lie among those of a type: our step is `steps` of its, with the sign.
struct Fit {
  int steps;  // 1 or 2
  int sign;   // 1 or -1
};
constexpr std::array kFits{Fit{1, 1}, Fit{1, -1}, Fit{2, 1}, Fit{2, -1}};

// How codes of a type without minima follow from those of a group of ours; none: not by integers.
std::optional<core::CodeMap> map_of(const GgmlGrid& grid, Fit fit, float zero) {
  const auto step = static_cast<float>(grid.step), ours = static_cast<float>(fit.steps * fit.sign);
  const float factor = ours / step, offset = (static_cast<float>(grid.zero) - ours * zero) / step;
  if (!is_integer(factor) || !is_integer(offset)) return std::nullopt;
  return core::CodeMap{static_cast<int32_t>(factor), static_cast<int32_t>(offset)};
}

// The code of a type without minima for level `code - zero` of ours; -1: it has none.
int code_of(const GgmlGrid& grid, Fit fit, int code, float zero) {
  const float level = static_cast<float>(fit.steps * fit.sign) * (static_cast<float>(code) - zero);  // in its scales
  const float c = (level + static_cast<float>(grid.zero)) / static_cast<float>(grid.step);
  const bool fits = is_integer(c) && c >= 0 && c < static_cast<float>(1 << grid.bits);
  return fits ? static_cast<int>(c) : -1;
}

// The multiple of a group as a type stores it; false: it is out of range.
bool put_multiple(const GgmlGrid& grid, float multiple, int8_t& to) {
  const int most = (1 << (grid.signed_multiple ? grid.scale_bits - 1 : grid.scale_bits)) - 1;
  const int least = grid.signed_multiple ? -most - 1 : 0;
  if (!is_integer(multiple) || multiple < static_cast<float>(least) || multiple > static_cast<float>(most))
    return false;
  to = static_cast<int8_t>(multiple);
  return true;
}

bool put_minimum_multiple(const GgmlGrid& grid, float multiple, uint8_t& to) {
  if (!is_integer(multiple) || multiple < 0 || multiple >= static_cast<float>(1 << grid.scale_bits)) return false;
  to = static_cast<uint8_t>(multiple);
  return true;
}

// The first of some values, of which all must be equal and exact in float16.
class Common {
 public:
  bool take(float value) {
    if (taken_) return value == value_;
    taken_ = true;
    value_ = value;
    return is_half(value);
  }
  float value() const { return value_; }

 private:
  bool taken_ = false;
  float value_ = 0;
};

}  // namespace

// Whether the block of columns from `first` on could be written.
bool CodedRows::put_block(const GgmlType& type, const Row& row, int64_t first, std::optional<core::CodeMap> map,
                          std::byte* to) {
  const GgmlGrid& grid = type.grid;
  const int64_t groups = type.block / grid.group;  // of a block
  // Without minima: one fit for all groups of a block, so that they share a scale.
  const auto symmetric = [&](Fit fit, GgmlBlock& block) {
    Common scale;
    for (int64_t t = 0; t < groups; ++t) {
      const int64_t begin = first + t * grid.group, g = row.group_of(begin, grid.group);
      if (g < 0 || row.stores_minimum()) return false;
      if (map && map_of(grid, fit, row.zero[g]) != map) return false;
      const float step = static_cast<float>(fit.sign) / static_cast<float>(fit.steps);
      const bool two = grid.is_two_level();
      if (!scale.take((two ? row.shared[g] : row.scale(g)) * step)) return false;
      if (two && !put_multiple(grid, row.multiple[g], block.multiple[static_cast<size_t>(t)])) return false;
      for (int64_t i = 0; i < grid.group; ++i) {
        const int code = code_of(grid, fit, row.codes[begin + i], row.zero[g]);
        if (code < 0) return false;
        block.codes[static_cast<size_t>(begin - first + i)] = static_cast<uint8_t>(code);
      }
    }
    block.scale = scale.value();
    return true;
  };
  // With minima: codes stay; a zero point z becomes the minimum -s z, of half scales where z is none of the integers.
  const auto with_minimum = [&](int steps, GgmlBlock& block) {
    Common scale, minimum;
    for (int64_t t = 0; t < groups; ++t) {
      const auto at = static_cast<size_t>(t);
      const int64_t begin = first + t * grid.group, g = row.group_of(begin, grid.group);
      if (g < 0) return false;
      const bool two = grid.is_two_level(), stored = row.stores_minimum();
      const auto factor = static_cast<float>(steps);
      if (!scale.take(two ? row.shared[g] / factor : row.scale(g))) return false;
      if (two) {
        const float lower = stored ? row.minimum_multiple[g] : row.multiple[g] * row.zero[g] * factor;
        if (!minimum.take(stored ? row.shared_minimum[g] : row.shared[g] / factor)) return false;
        if (!put_multiple(grid, row.multiple[g] * factor, block.multiple[at])) return false;
        if (!put_minimum_multiple(grid, lower, block.minimum_multiple[at])) return false;
      } else if (!minimum.take(stored ? -(row.shared_minimum[g] * row.minimum_multiple[g])
                                      : -(row.scale(g) * row.zero[g]))) {
        return false;
      }
      for (int64_t i = begin; i < begin + grid.group; ++i) {
        if (row.codes[i] >= 1 << grid.bits) return false;
        block.codes[static_cast<size_t>(i - first)] = row.codes[i];
      }
    }
    block.scale = scale.value();
    block.minimum = minimum.value();
    return true;
  };
  const auto decodes = [&](const GgmlBlock& block) {
    std::array<float, 256> values;
    core::put_together(type, block, to);
    type.decode(to, 1, values.data());
    return std::equal(values.begin(), values.begin() + type.block, row.decoded + first);
  };
  GgmlBlock block{};
  if (grid.has_minimum) {
    return std::any_of(kFits.begin(), kFits.end(),
                       [&](Fit fit) { return fit.sign > 0 && with_minimum(fit.steps, block) && decodes(block); });
  }
  return std::any_of(kFits.begin(), kFits.end(), [&](Fit fit) { return symmetric(fit, block) && decodes(block); });
}

CodedRows::CodedRows(const quant::WeightFormat& format, const quant::Encoded& encoded)
    : codes_(encoded.codes.cpu().contiguous()), levels_(levels_of(format, encoded)) {
  if (!levels_) return;
  decoded_ = format.decode(encoded.codes, encoded.parameters).to(at::kFloat).cpu().contiguous();
  for (at::Tensor* part :
       {&levels_->shared, &levels_->multiple, &levels_->zero, &levels_->shared_minimum, &levels_->minimum_multiple}) {
    if (part->defined()) *part = part->to(at::kFloat).expand({codes_.size(0), -1}).cpu().contiguous();
  }
}

CodedRows::Row CodedRows::row(int64_t o) const {
  const int64_t I = codes_.size(1);
  return {.codes = codes_.const_data_ptr<uint8_t>() + o * I,
          .decoded = decoded_.const_data_ptr<float>() + o * I,
          .group = I / levels_->shared.size(1),
          .shared = data(levels_->shared, o),
          .multiple = data(levels_->multiple, o),
          .zero = data(levels_->zero, o),
          .shared_minimum = data(levels_->shared_minimum, o),
          .minimum_multiple = data(levels_->minimum_multiple, o)};
}

std::vector<core::CodeMap> CodedRows::maps(const GgmlType& type) const {
  if (!levels_ || type.take_apart == nullptr) return {};
  if (type.grid.has_minimum) return {core::CodeMap{}};
  std::vector<core::CodeMap> all;
  for (const Fit fit : kFits) {
    if (!levels_->zero.defined()) continue;
    if (const auto map = map_of(type.grid, fit, row(0).zero[0])) all.push_back(*map);
  }
  return all;
}

std::optional<std::vector<std::byte>> CodedRows::in(const GgmlType& type, std::optional<core::CodeMap> map) const {
  if (!levels_ || type.take_apart == nullptr) return std::nullopt;
  const int64_t O = codes_.size(0), I = codes_.size(1), blocks = I / type.block;
  std::vector<std::byte> bytes(static_cast<size_t>(O * blocks) * type.block_bytes);
  std::atomic<bool> fits = true;
  at::parallel_for(0, O, 16, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end && fits; ++o) {
      const Row levels = row(o);
      std::byte* to = bytes.data() + static_cast<size_t>(o * blocks) * type.block_bytes;
      for (int64_t b = 0; b < blocks && fits; ++b, to += type.block_bytes) {
        if (!put_block(type, levels, b * type.block, map, to)) fits = false;
      }
    }
  });
  if (!fits) return std::nullopt;
  return bytes;
}

}  // namespace exports
