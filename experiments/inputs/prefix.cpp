#include "experiments/inputs/prefix.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/nn/prefix.h"
#include "models/registry.h"

namespace experiments {

namespace {

constexpr int64_t kWindows = 16;  // of the text, for `auto`
constexpr double kLarge = 64;     // times the median norm, as in PrefixQuant (section 4.1)

std::string where_of(const Spec& spec) { return spec.runtime.prefix.where("tokens"); }

// Calls visit(block, hidden) with the outputs of every block; hidden: [B, T, D], the inputs of the first.
void for_each_block(core::Model& model, const core::Weights& weights, at::Tensor hidden,
                    const std::function<void(int64_t, const at::Tensor&, const core::KeyValues&)>& visit) {
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    core::load(model.block(i), weights);
    core::KeyValues kept;
    hidden = model.block(i).forward(hidden, {.step = i, .kept = &kept});
    visit(i, hidden, kept);
    core::unload_block(model, i);
  }
}

// The tokens of `auto`: as many as are large in a window on average, the most frequent ones, and BOS.
std::vector<int64_t> found_tokens(const Spec& spec, const ModelFiles& files, core::Model& model,
                                  const core::Weights& weights, const core::Windows& text) {
  const int64_t windows = std::min(kWindows, text.count);
  const at::Tensor ids = at::tensor(std::vector<int32_t>(text.ids.begin(), text.ids.begin() + windows * text.seq_len))
                             .to(at::kLong)
                             .reshape({windows, text.seq_len});
  std::map<int64_t, int64_t> counts;  // of the block in which most tokens are large
  int64_t most = 0;
  for_each_block(model, weights, model.embed(ids.to(model.embedding().device())),
                 [&](int64_t, const at::Tensor& hidden, const core::KeyValues&) {
                   const std::map<int64_t, int64_t> here = large_tokens(hidden, ids);
                   int64_t sum = 0;
                   for (const auto& [id, count] : here) sum += count;
                   if (sum > most) counts = here, most = sum;
                 });
  std::vector<std::pair<int64_t, int64_t>> by_count;
  for (const auto& [id, count] : counts) by_count.emplace_back(-count, id);
  std::sort(by_count.begin(), by_count.end());
  const auto wanted = static_cast<size_t>(std::ceil(static_cast<double>(most) / static_cast<double>(windows)));
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < std::min({wanted, by_count.size(), static_cast<size_t>(PrefixConfig::kMost - 1)}); ++i)
    tokens.push_back(by_count[i].second);
  const std::optional<int32_t> bos = files.tokenizer->bos_id();
  if (bos) tokens.push_back(*bos);
  core::require(!tokens.empty(),
                "{}: no token of the calibration text is large, and the tokenizer has no BOS. Name tokens.",
                where_of(spec));
  return tokens;
}

// Tokens of the prefix that a quantized checkpoint was made with.
int64_t held_prefix(const ModelFiles& files) {
  const std::string keys = core::Prefix::keys_of(core::path_of_block(0) + ".self_attn");
  return files.quantized && files.tensors->has(keys) ? files.tensors->stored(keys).shape.at(0) : 0;
}

}  // namespace

std::map<int64_t, int64_t> large_tokens(const at::Tensor& hidden, const at::Tensor& ids) {
  const at::Tensor norms = hidden.to(at::kFloat).square().sum(-1).sqrt().cpu();  // [B, T]
  const at::Tensor large = norms > kLarge * std::get<0>(norms.median(-1, /*keepdim=*/true));
  std::map<int64_t, int64_t> counts;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    for (int64_t t = 1; t < ids.size(1); ++t) {
      if (large[b][t].item<bool>()) ++counts[ids[b][t].item<int64_t>()];
    }
  }
  return counts;
}

int64_t prefix_length(const Spec& spec, const ModelFiles& files, const core::Shape& shape) {
  const PrefixConfig& config = spec.runtime.prefix;
  if (!config.selected()) return held_prefix(files);
  core::require(!files.quantized,
                "{}: {} is a quantized checkpoint, which has the prefix that it was made with. Remove it.",
                where_of(spec), files.path);
  const int64_t tokens = config.is_auto() ? PrefixConfig::kMost : static_cast<int64_t>(config.ids().size());
  core::require(tokens < shape.context, "{}: {} tokens leave no room in the model's context of {}. Name fewer.",
                where_of(spec), tokens, shape.context);
  if (config.is_auto()) return tokens;
  for (const int64_t id : config.ids()) {
    core::require(id < shape.vocabulary, "{}: the model has no token {}, its vocabulary has {}. Name another.",
                  where_of(spec), id, shape.vocabulary);
  }
  return tokens;
}

ModelFiles with_prefix(const Spec& spec, const ModelFiles& files, const core::Windows* text) {
  const c10::InferenceMode off(false);  // the tensors stay with the run
  const at::NoGradGuard no_gradient;
  const PrefixConfig& config = spec.runtime.prefix;
  ModelFiles all = files;
  const core::Weights weights = weights_of(spec, files);
  const auto model = models::build(files.config);
  model->load_embedding_and_head(weights);
  all.prefix.tokens = config.is_auto() ? found_tokens(spec, files, *model, weights, *text) : config.ids();
  auto tensors = std::make_shared<core::Weights::Added>();
  const at::Tensor ids = at::tensor(all.prefix.tokens, at::kLong).unsqueeze(0);  // [1, P]
  for_each_block(*model, weights, model->embed(ids.to(model->embedding().device())),
                 [&](int64_t block, const at::Tensor&, const core::KeyValues& kept) {
                   const std::string path = core::path_of_block(block) + ".self_attn";
                   tensors->emplace(core::Prefix::keys_of(path), kept.k.squeeze(0).clone());
                   tensors->emplace(core::Prefix::values_of(path), kept.v.squeeze(0).clone());
                 });
  all.prefix.tensors = std::move(tensors);
  std::vector<std::string> names;
  for (const int64_t id : all.prefix.tokens) {
    const std::array<int32_t, 1> one{static_cast<int32_t>(id)};
    names.push_back(fmt::format("{} ({})", id, files.tokenizer->decode(one)));
  }
  spdlog::info("prefix of {} tokens: {}", names.size(), fmt::join(names, ", "));
  return all;
}

}  // namespace experiments
