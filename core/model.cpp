#include "core/model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/side_by_side.h"
#include "core/warn_once.h"

namespace core {

// ---- Embedding ----

// Asked for every token: of a parameter where there is one, since the state of codes that run packed is unpacked.
at::Device Embedding::device() const {
  const std::vector<at::Tensor> parameters = linear().parameters();
  return (parameters.empty() ? linear().state().front().tensor : parameters.front()).device();
}

std::vector<State> Embedding::state() const {
  std::vector<State> all = Slot::state();
  for (State& entry : all) {
    if (entry.kind == Kind::weight) entry.kind = Kind::embedding;
  }
  return all;
}

Cost Embedding::cost() const {
  Cost cost = linear().cost();
  cost.macs = 0;
  cost.bytes_read /= out_features();
  return cost;
}

// ---- Model ----

int64_t last_reader(const Plan& plan, int64_t step) {
  int64_t last = step;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i].kv == step) last = static_cast<int64_t>(i);
  }
  return last;
}

Plan default_plan(int64_t layers) {
  Plan plan(layers);
  for (int64_t i = 0; i < layers; ++i) plan[i].block = i;
  return plan;
}

std::string path_of_block(int64_t index) { return "model.layers." + std::to_string(index); }

std::string path_in(const Slot& slot, int64_t block) {
  return path_of_block(block) + slot.path().substr(path_of_block(slot.block()).size());
}

Model::Model(Shape shape, MakeBlock make_block)
    : shape_(std::move(shape)), make_block_(std::move(make_block)), plan_(default_plan(shape_.layers)) {
  const auto [vocabulary, width] = std::pair{shape_.vocabulary, shape_.width};
  embedding_ = register_module("embed_tokens", std::make_shared<Embedding>("model.embed_tokens", vocabulary, width));
  for (int64_t i = 0; i < shape_.layers; ++i)
    blocks_.push_back(register_module("layer" + std::to_string(i), made_block(path_of_block(i), i)));
  for (Slot* slot : slots()) slots_[slot->path()] = slot;
  replicas_.resize(shape_.layers);
  norm_ = register_module("norm", std::make_shared<RmsNorm>("model.norm", width, shape_.norm_eps));
  head_ = register_module("lm_head",
                          std::make_shared<Slot>("lm_head", Role::lm_head, vocabulary, width, /*has_bias=*/false));
}

std::shared_ptr<Block> Model::made_block(const std::string& path, int64_t index) const {
  std::shared_ptr<Block> block = make_block_(path, index);
  Mixture* mixture = block->mixture();
  for (Slot* slot : block->slots()) {
    slot->set_place({.block = index});
    TORCH_CHECK(mixture != nullptr || slot->path().find(".experts.") == std::string::npos, slot->path(),
                ": its block has experts, but says nothing of a mixture. Override Block::mixture().");
  }
  if (mixture == nullptr) return block;
  for (int64_t e = 0; e < mixture->experts(); ++e) {
    for (Slot* slot : mixture->slots_of(e)) slot->set_place({.block = index, .expert = e});
  }
  for (Slot* slot : mixture->slots_of_shared()) slot->set_place({.block = index, .is_shared = true});
  return block;
}

at::Tensor Model::logits(const at::Tensor& hidden) { return head_->forward(norm_->forward(hidden)); }

at::Tensor Model::run(const Step& step, const at::Tensor& x, const Pass& pass) {
  if (step.parallel == 1) {
    Pass own = pass;
    own.only = step.only;
    return block(step.block, step.replica).forward(x, own);
  }
  return side_by_side_.at({step.block, step.replica, step.parallel})->forward(x, pass);
}

at::Tensor Model::states(const at::Tensor& ids, KvCache* cache) {
  Pass pass{.cache = cache};
  if (cache != nullptr) pass.position = cache->length(0);
  std::vector<KeyValues> kept(plan_.size());
  at::Tensor hidden = embed(ids);  // [B, T, D]
  for (size_t i = 0; i < plan_.size(); ++i) {
    pass.step = static_cast<int64_t>(i);
    pass.given = plan_[i].kv == Step::kOwn ? nullptr : &kept.at(plan_[i].kv);
    pass.kept = last_reader(plan_, pass.step) > pass.step ? &kept[i] : nullptr;
    hidden = run(plan_[i], hidden, pass);
  }
  return hidden;
}

void Model::follow(Plan plan) {
  std::vector<int64_t> count(shape_.layers, 0);  // of replicas, per block
  for (const Step& step : plan) count.at(step.block) = std::max(count.at(step.block), step.replica + step.parallel - 1);
  for (int64_t i = 0; i < shape_.layers; ++i) {
    std::vector<std::shared_ptr<Block>>& all = replicas_[i];
    const auto name = [&](size_t r) { return "layer" + std::to_string(i) + "_replica" + std::to_string(r); };
    for (; static_cast<int64_t>(all.size()) > count[i]; all.pop_back()) unregister_module(name(all.size()));
    while (static_cast<int64_t>(all.size()) < count[i]) {
      const std::string path = path_of_block(i) + ".replica" + std::to_string(all.size() + 1);
      all.push_back(register_module(name(all.size() + 1), made_block(path, i)));
      const std::vector<Loadable*> originals = loadables(*blocks_[i]), copies = loadables(*all.back());
      for (size_t n = 0; n < originals.size(); ++n) copies.at(n)->share(*originals[n]);
    }
  }
  side_by_side_.clear();
  for (const Step& step : plan) {
    if (step.parallel == 1) continue;
    std::vector<Block*> all;
    for (int64_t r = 0; r < step.parallel; ++r) all.push_back(&block(step.block, step.replica + r));
    side_by_side_[{step.block, step.replica, step.parallel}] =
        std::make_shared<SideBySide>(std::move(all), made_block(path_of_block(step.block), step.block));
  }
  plan_ = std::move(plan);
}

std::vector<Block*> Model::replicas(int64_t index) {
  std::vector<Block*> all;
  for (const auto& replica : replicas_.at(index)) all.push_back(replica.get());
  return all;
}

Slot& Model::slot(const std::string& path) const {
  const auto found = slots_.find(path);
  TORCH_CHECK(found != slots_.end(), path, " is no linear of this model");
  return *found->second;
}

std::string Model::expert_path(const Slot& slot) {
  return slot.expert() < 0 ? "" : block(slot.block()).mixture()->expert_path(slot.expert());
}

std::vector<Slot*> Model::slots() {
  std::vector<Slot*> all;
  for (const auto& block : blocks_) {
    const std::vector<Slot*> own = block->slots();
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

// ---- walks over Loadable modules ----

namespace {

void for_each_loadable(torch::nn::Module& module, const std::function<void(Loadable&)>& visit) {
  for (Loadable* loadable : loadables(module)) visit(*loadable);
}

std::string weight_of(const Slot& slot) { return slot.path() + ".weight"; }

// Before "embed_tokens" in files that hold more or less than a language model with its head.
constexpr std::array kOtherPrefixes{"",
                                    "transformer.",
                                    "language_model.",
                                    "language_model.model.",
                                    "model.language_model.",
                                    "model.model.",
                                    "module.model.",
                                    "_orig_mod.model.",
                                    "base_model.model.model."};

}  // namespace

namespace {

// Tensors that old checkpoints carry and nobody reads: the frequencies of positions follow from config.json.
bool is_spare(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

// One tensor of all experts, of which parts are read under names of their own (core/io/safetensors.h).
bool is_read_in_parts(const std::string& name, const std::set<std::string>& read) {
  const std::string experts = name.substr(0, name.rfind('.') + 1);
  const auto part = read.lower_bound(experts);
  return experts.ends_with(".experts.") && part != read.end() && part->starts_with(experts);
}

// Says which tensors of the files are none of this model's. read: the names of those that are.
void warn_of_unread(const TensorSource& source, const std::set<std::string>& read) {
  constexpr size_t kNamed = 3;
  std::vector<std::string> unread;
  for (const std::string& name : source.names()) {
    if (!read.contains(name) && !is_spare(name) && !is_read_in_parts(name, read)) unread.push_back(name);
  }
  if (unread.empty()) return;
  const std::vector<std::string> named(unread.begin(), unread.begin() + std::min(unread.size(), kNamed));
  warn_once(fmt::format(
      "{}: {} tensors are read by nothing: {}{}. Check that the configuration (layers, model_type, biases) is that of "
      "the file.",
      source.file_of(unread.front()), unread.size(), fmt::join(named, ", "), unread.size() > kNamed ? ", …" : ""));
}

}  // namespace

void Model::check(const Weights& weights) const {
  std::set<std::string> read;
  const Weights noting = weights.noting(read);
  check_embedding_and_head(noting);
  for_each_loadable(const_cast<Model&>(*this), [&](Loadable& loadable) {
    if (&loadable != embedding_.get() && &loadable != head_.get()) loadable.check(noting);
  });
  warn_of_unread(weights.source(), read);
}

void Model::check_embedding_and_head(const Weights& weights) const {
  const std::string embedding = weight_of(*embedding_), head = weight_of(*head_);
  const bool has_embedding = weights.has(embedding), has_head = weights.has(head);
  if (!has_embedding) {
    for (const char* prefix : kOtherPrefixes) {
      const std::string other = prefix + std::string("embed_tokens.weight");
      if (!weights.has(other)) continue;
      fail(
          "{}: there is no tensor `{}`, but there is `{}`. Save the language model with its head (…ForCausalLM), or "
          "rename the tensors.",
          weights.source().file_of(other), embedding, other);
    }
  }
  const auto& [missing, present] = has_embedding ? std::pair(head, embedding) : std::pair(embedding, head);
  if (!shape_.tied && has_embedding != has_head) {
    fail(
        "{}: there is no tensor `{}`, only `{}`, and config.json does not tie them. Set tie_word_embeddings to true if "
        "they are the same, or add the tensor.",
        weights.source().file_of(present), missing, present);
  }
  if (has_embedding || !has_head) embedding_->check(weights);
  if (has_head) head_->check(weights);
}

void Model::load_embedding_and_head(const Weights& weights) {
  norm_->load(weights);
  const std::string embedding = weight_of(*embedding_), head = weight_of(*head_);
  if (shape_.tied && !weights.has(embedding) && weights.has(head)) {
    head_->load(weights);
    return embedding_->put(head_->pointer());
  }
  embedding_->load(weights);
  if (shape_.tied && weights.has(head) && !weights.same(head, embedding_->linear().weight())) {
    untie();
    warn_once(
        fmt::format("{}: config.json ties {} and {}, but they differ. They are not tied, as in transformers. Set "
                    "tie_word_embeddings to false.",
                    weights.source().file_of(head), embedding, head));
  }
  if (!shape_.tied) return head_->load(weights);
  head_->put(embedding_->pointer());
}

void load(torch::nn::Module& module, const Weights& weights) {
  if (auto* model = dynamic_cast<Model*>(&module)) {  // its head may have no tensor of its own
    model->load_embedding_and_head(weights);
    for (int64_t i = 0; i < model->shape().layers; ++i) load(model->block(i), weights);
  } else {
    for_each_loadable(module, [&](Loadable& loadable) { loadable.load(weights); });
  }
}

void unload(torch::nn::Module& module) {
  for_each_loadable(module, [](Loadable& loadable) { loadable.unload(); });
}

std::vector<State> named_state(torch::nn::Module& module) {
  std::vector<State> all;
  std::set<const void*> seen;
  for_each_loadable(module, [&](Loadable& loadable) {
    for (State& entry : loadable.state()) {
      if (seen.insert(entry.tensor.const_data_ptr()).second) all.push_back(std::move(entry));
    }
  });
  return all;
}

bool shares_embedding(Model& model) { return model.head().pointer() == model.embedding().pointer(); }

Cost bill_of_embedding_and_head(Model& model) {
  Cost sum = model.embedding().cost();
  sum += model.norm().cost();
  Cost head = shares_embedding(model) ? model.head().cost().running() : model.head().cost();
  if (model.shape().tied) head.weights = 0;
  sum += head;
  return sum;
}

Cost storage_of(Block& block) {
  Cost sum;
  for_each_loadable(block, [&](Loadable& loadable) { sum += loadable.cost(); });
  sum.macs = sum.bytes_read = 0;
  return sum;
}

namespace {

// What running it once costs. computes_keys: not those of another step. at_hand: what it shares with the block was read
// already, only what is its own has to be. only: as of Step.
Cost run_of(Block& block, bool computes_keys, bool at_hand, Half only = Half::none) {
  Cost sum;
  for_each_loadable(block, [&](Loadable& loadable) {
    const auto* slot = dynamic_cast<const Slot*>(&loadable);
    if (slot != nullptr && makes_keys(slot->role()) && !computes_keys) return;
    if (slot != nullptr && only != Half::none && half_of(slot->role()) != only) return;
    const Cost cost = loadable.cost();
    const double seen = slot != nullptr ? slot->token_fraction() : 1;
    const int64_t own = std::llround(static_cast<double>(cost.parameter_bits / 8) * seen);
    sum += {.macs = cost.macs, .bytes_read = at_hand ? own : cost.bytes_read};
  });
  return sum;
}

// Different blocks that run from the last step of this block before `step` on; 0: it has none.
int64_t blocks_since(const Plan& plan, int64_t step) {
  std::set<int64_t> blocks;
  for (int64_t i = step - 1; i >= 0; --i) {
    blocks.insert(plan[i].block);
    if (plan[i].block == plan[step].block) return static_cast<int64_t>(blocks.size());
  }
  return 0;
}

}  // namespace

Cost bill_of_block(Model& model, int64_t index, int64_t cache_bytes) {
  Cost sum = storage_of(model.block(index));
  for (Block* replica : model.replicas(index)) sum += storage_of(*replica);
  const Plan& plan = model.plan();
  const int64_t bytes = run_of(model.block(index), /*computes_keys=*/true, /*at_hand=*/false).bytes_read;
  for (int64_t s = 0; s < static_cast<int64_t>(plan.size()); ++s) {
    const Step& step = plan[s];
    if (step.block != index) continue;
    const int64_t since = blocks_since(plan, s);
    for (int64_t i = 0; i < step.parallel; ++i) {
      const bool at_hand = i > 0 || (since > 0 && since * bytes <= cache_bytes);
      sum += run_of(model.block(index, step.replica + i), i == 0 && step.kv == Step::kOwn, at_hand, step.only);
    }
  }
  return sum;
}

Cost bill(Model& model) {
  Cost sum = bill_of_embedding_and_head(model);
  for (int64_t i = 0; i < model.shape().layers; ++i) sum += bill_of_block(model, i);
  return sum;
}

}  // namespace core
