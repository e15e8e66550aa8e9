#include "replication/parity_sign.h"

#include <ATen/ATen.h>

#include <bit>
#include <map>
#include <mutex>
#include <tuple>

#include "core/error.h"

namespace replication {

const std::vector<ParityCode>& parity_codes() {
  static const std::vector<ParityCode> codes{
      {2, 2, 8, {0x39, 0x2a}, {-.646f, .729f}},
      {2, 2, 12, {0x539, 0x82a}, {-.694f, .685f}},
      {2, 2, 16, {0xa930, 0x7350}, {.740f, .619f}},
      {2, 3, 16, {0xacf1, 0x4ebb, 0x9b49}, {.542f, .538f, .511f}},
      {2, 4, 16, {0xa930, 0x7350, 0x0baf, 0x22cc}, {.587f, .470f, .384f, .307f}},
      {1, 2, 12, {0x9d6, 0xe1c}, {1.432f, 1.016f}},
      {3, 2, 6, {0x9, 0x3c}, {.369f, .380f}},
      {3, 3, 12, {0x3b0, 0x93f, 0xd0d}, {.276f, .274f, .275f}},
      {4, 2, 8, {0x71, 0xde}, {.194f, .196f}},
  };
  return codes;
}

at::Tensor parity_features(int64_t bits, int64_t window_bits, const std::vector<uint32_t>& masks) {
  const auto P = static_cast<int64_t>(masks.size()), windows = int64_t{1} << window_bits;
  const int64_t top = (int64_t{1} << bits) - 1;
  at::Tensor features = at::empty({windows, P}, at::kFloat);
  auto* to = features.mutable_data_ptr<float>();
  for (int64_t window = 0; window < windows; ++window) {
    for (int64_t r = 0; r < P; ++r) {
      const float centred = static_cast<float>(window >> (bits * r) & top) - static_cast<float>(top) / 2;
      const bool odd = std::popcount(static_cast<uint32_t>(window) & masks[r]) & 1;
      to[window * P + r] = odd ? -centred : centred;
    }
  }
  return features;
}

namespace {

std::string available() {
  std::string text;
  for (const ParityCode& code : parity_codes())
    text += fmt::format("{}{}/{}/{}", text.empty() ? "" : ", ", code.bits, code.replicas, code.window_bits);
  return text;
}

// All linears share one matrix: at 16 bits it has hundreds of kilobytes.
at::Tensor shared_features(const ParityCode& code) {
  static std::mutex mutex;
  static std::map<std::tuple<int64_t, int64_t, int64_t>, at::Tensor> made;
  const std::lock_guard lock(mutex);
  at::Tensor& features = made[{code.bits, code.replicas, code.window_bits}];
  if (!features.defined()) features = parity_features(code.bits, code.window_bits, code.masks);
  return features;
}

}  // namespace

WindowFamily parity_sign(int64_t bits, int64_t replicas, int64_t window_bits, const std::string& path) {
  for (const ParityCode& code : parity_codes()) {
    if (code.bits != bits || code.replicas != replicas || code.window_bits != window_bits) continue;
    return {"parity_sign", window_bits, shared_features(code), "alpha", code.alpha, {}};
  }
  core::fail(
      "{}: parity_sign has no masks for {} bits, {} replicas and a window of {} bits. There are (bits/replicas/"
      "window_bits): {}. tools/window_codes.py finds more.",
      path, bits, replicas, window_bits, available());
}

}  // namespace replication
