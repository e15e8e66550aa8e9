#include "core/nn/prefix.h"

#include <ATen/ATen.h>

namespace core {

Prefix::Prefix(const std::string& path, int64_t heads, int64_t key_width, int64_t value_width)
    : path_(path), heads_(heads), key_width_(key_width), value_width_(value_width) {}

void Prefix::check(const Weights& weights) const {
  if (!weights.has(keys_of(path_))) return;
  const int64_t tokens = weights.length_of(keys_of(path_));
  weights.check(keys_of(path_), {tokens, heads_, key_width_});
  weights.check(values_of(path_), {tokens, heads_, value_width_});
}

void Prefix::load(const Weights& weights) {
  if (!weights.has(keys_of(path_))) return;
  const int64_t tokens = weights.length_of(keys_of(path_));
  held_.k = weights.read(keys_of(path_), {tokens, heads_, key_width_}).tensor.clone().unsqueeze(0);
  held_.v = weights.read(values_of(path_), {tokens, heads_, value_width_}).tensor.clone().unsqueeze(0);
}

std::vector<State> Prefix::state() const {
  if (length() == 0) return {};
  return {{keys_of(path_), held_.k.squeeze(0), Kind::prefix}, {values_of(path_), held_.v.squeeze(0), Kind::prefix}};
}

Cost Prefix::cost() const {
  if (length() == 0) return {};
  const int64_t bytes = (held_.k.numel() + held_.v.numel()) * held_.k.element_size();
  return {.parameter_bits = 8 * bytes, .bytes_read = bytes};
}

}  // namespace core
