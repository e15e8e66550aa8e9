#include "core/io/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>

namespace core {
namespace {

// "12.mlp.up_proj" -> 12 and "mlp.up_proj"; none: it begins with no number.
std::optional<std::pair<int64_t, std::string>> number_and_rest(const std::string& text) {
  const size_t dot = text.find('.');
  if (dot == 0 || dot == std::string::npos || dot > 9) return std::nullopt;
  if (!std::all_of(text.begin(), text.begin() + static_cast<int64_t>(dot), [](char c) { return c >= '0' && c <= '9'; }))
    return std::nullopt;
  return std::pair(std::stoll(text.substr(0, dot)), text.substr(dot + 1));
}

// Cuts `prefix` off; whether it was there.
bool cut(std::string& text, const std::string& prefix) {
  if (!text.starts_with(prefix)) return false;
  text.erase(0, prefix.size());
  return true;
}

}  // namespace

int64_t interleaved_row(int64_t row, int64_t head_width) {
  const int64_t half = head_width / 2, within = row % head_width;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

std::optional<GgufPlace> gguf_place(const GgufArchitecture& architecture, const std::string& name) {
  if (name == "model.embed_tokens.weight") return GgufPlace{"token_embd.weight"};
  if (name == "model.norm.weight") return GgufPlace{"output_norm.weight"};
  if (name == "lm_head.weight") return GgufPlace{"output.weight"};
  std::string rest = name;
  if (!cut(rest, "model.layers.")) return std::nullopt;
  const auto block = number_and_rest(rest);
  const size_t end = name.rfind('.');
  if (!block || block->second.find('.') == std::string::npos) return std::nullopt;
  std::string part = block->second.substr(0, block->second.rfind('.'));
  const std::string kind = name.substr(end);
  std::string ending;  // of ours
  GgufPlace place;
  if (cut(part, "mlp.experts.")) {
    const auto expert = number_and_rest(part);
    if (!expert) return std::nullopt;
    place.expert = expert->first;
    part = expert->second;
    ending = "_exps";
  } else if (cut(part, std::string("mlp.") + architecture.shared_experts() + ".")) {
    ending = "_shexp";
  }
  for (const GgufTensorName& row : kGgufBlockTensors) {
    const std::string ours = row.ours;
    const bool stacked = ours.ends_with("_exps") || (ours.ends_with("_shexp") && ours != "ffn_gate_inp_shexp");
    if (part != row.theirs || !row.is_of(architecture) || stacked != !ending.empty()) continue;
    if (stacked && !ours.ends_with(ending)) continue;
    place.tensor = fmt::format("blk.{}.{}{}", block->first, ours, kind);
    place.is_interleaved = architecture.interleaves(ours);
    return place;
  }
  return std::nullopt;
}

}  // namespace core
