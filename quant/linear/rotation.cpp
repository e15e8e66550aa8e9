#include "quant/linear/rotation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/random.h"

namespace quant {

at::Tensor Rotation::Side::apply(const at::Tensor& x) const {
  if (hadamard == nullptr) return x;
  return hadamard->multiply(signs.defined() ? x * signs.to(x.options()) : x);
}

at::Tensor Rotation::Side::undo(const at::Tensor& x) const {
  if (hadamard == nullptr) return x;
  const at::Tensor back = hadamard->multiply_transposed(x);
  return signs.defined() ? back * signs.to(x.options()) : back;
}

Rotation::Side Rotation::side(int64_t width, bool signs, uint64_t seed) {
  Side made{std::make_shared<core::Hadamard>(width), {}};
  if (!signs) return made;
  core::Random random(seed, fmt::format("width {}", width), "incoherence");
  made.signs = at::empty({width}, at::kFloat);
  for (int64_t i = 0; i < width; ++i) made.signs.mutable_data_ptr<float>()[i] = (random.bits() & 1) != 0 ? 1.0f : -1.0f;
  return made;
}

std::shared_ptr<const Rotation> Rotation::make(const IncoherenceConfig& config, int64_t out_features,
                                               int64_t in_features, uint64_t seed) {
  if (!config.selected()) return nullptr;
  auto made = std::make_shared<Rotation>();
  made->config_ = config;
  made->seed_ = seed;
  made->in_ = side(in_features, config.signs, seed);
  if (config.hadamard == "both") made->out_ = side(out_features, config.signs, seed);
  return made;
}

at::Tensor Rotation::input(const at::Tensor& x) const { return in_.apply(x); }
at::Tensor Rotation::output(const at::Tensor& y) const { return out_.undo(y); }

at::Tensor Rotation::coded(const at::Tensor& w) const { return out_.apply(in_.apply(w).t()).t().contiguous(); }

at::Tensor Rotation::original(const at::Tensor& w) const { return in_.undo(out_.undo(w.t()).t()).contiguous(); }

std::string Rotation::blocks() const {
  std::string text;
  for (const Side* side : {&in_, &out_}) {
    if (side->hadamard == nullptr || side->hadamard->block() == side->hadamard->width()) continue;
    text += fmt::format("{}{} in {}", text.empty() ? "" : ", ", side->hadamard->width(), side->hadamard->block());
  }
  return text;
}

std::string as_text(const Rotation& rotation) {
  return rotation.config().signs ? fmt::format("rotated, signs of seed {}", rotation.seed()) : "rotated";
}

int64_t Rotation::macs() const {
  return (in_.hadamard ? in_.hadamard->macs() : 0) + (out_.hadamard ? out_.hadamard->macs() : 0);
}

}  // namespace quant
