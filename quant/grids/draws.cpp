#include "quant/grids/draws.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "core/random.h"

namespace quant {

at::Tensor uniform_draw(const Place& place, std::string_view purpose, uint64_t step, int64_t rows, int64_t columns) {
  core::Random random(place.seed, place.path, purpose, step);
  at::Tensor draw = at::empty({rows, columns}, at::kFloat);
  auto* values = draw.mutable_data_ptr<float>();
  for (int64_t i = 0; i < draw.numel(); ++i) values[i] = static_cast<float>(random.bits() >> 8) * 0x1p-24f;
  return draw;
}

at::Tensor normal_draw(const Place& place, std::string_view purpose, uint64_t step, int64_t rows, int64_t columns) {
  core::Random random(place.seed, place.path, purpose, step);
  at::Tensor draw = at::empty({rows, columns}, at::kFloat);
  auto* values = draw.mutable_data_ptr<float>();
  for (int64_t i = 0; i < draw.numel(); i += 2) {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));  // of (0, 1]
    const double angle = 2 * std::numbers::pi * random.uniform();
    values[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < draw.numel()) values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return draw;
}

}  // namespace quant
