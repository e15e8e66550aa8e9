#include "quant/grids/weight_format.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace quant {

bool Parameters::has(const std::string& name) const {
  return std::any_of(begin(), end(), [&](const Parameter& p) { return p.name == name; });
}

const at::Tensor& Parameters::at(const std::string& name) const {
  const auto found = std::find_if(begin(), end(), [&](const Parameter& p) { return p.name == name; });
  TORCH_CHECK(found != end(), "this format has no parameter ", name);
  return found->tensor;
}

at::Tensor& Parameters::at(const std::string& name) { return const_cast<at::Tensor&>(std::as_const(*this).at(name)); }

int64_t parameter_bits(const Parameters& parameters) {
  int64_t bits = 0;
  for (const Parameter& p : parameters) bits += c10::multiply_integers(p.shape) * p.stored_bits;
  return bits;
}

at::Tensor WeightFormat::product(const at::Tensor&, const Multiply&, const at::Tensor&, const Parameters&) const {
  TORCH_CHECK(false, "the format ", name(), " multiplies with its weight alone");
}

const ElementFormat& as_elements(const WeightFormat& format) {
  const auto* elements = dynamic_cast<const ElementFormat*>(&format);
  TORCH_CHECK(elements != nullptr, "the format ", format.name(), " does not choose codes one by one");
  return *elements;
}

const SequenceFormat& as_sequence(const WeightFormat& format) {
  const auto* sequence = dynamic_cast<const SequenceFormat*>(&format);
  TORCH_CHECK(sequence != nullptr, "the format ", format.name(), " chooses codes one by one");
  return *sequence;
}

}  // namespace quant
