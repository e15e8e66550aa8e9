#include "core/model.h"

#include <ATen/ATen.h>

#include <map>
#include <numeric>
#include <set>

namespace core {

// ---- Block ----

std::vector<Slot*> Block::slots() {
  std::vector<Slot*> all;
  for (const LinearGroup& group : groups()) all.insert(all.end(), group.slots.begin(), group.slots.end());
  return all;
}

// ---- Embedding ----

at::Device Embedding::device() const { return linear().state().front().tensor.device(); }

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

Plan default_plan(int64_t layers) {
  Plan plan(layers);
  for (int64_t i = 0; i < layers; ++i) plan[i].block = i;
  return plan;
}

Model::Model(Shape shape, std::vector<std::shared_ptr<Block>> blocks)
    : plan(default_plan(shape.layers)), shape_(std::move(shape)), blocks_(std::move(blocks)) {
  TORCH_CHECK(static_cast<int64_t>(blocks_.size()) == shape_.layers, blocks_.size(), " blocks for ", shape_.layers,
              " layers");
  const auto [vocabulary, width] = std::pair{shape_.vocabulary, shape_.width};
  embedding_ = register_module("embed_tokens", std::make_shared<Embedding>("model.embed_tokens", vocabulary, width));
  for (size_t i = 0; i < blocks_.size(); ++i) register_module("layer" + std::to_string(i), blocks_[i]);
  norm_ = register_module("norm", std::make_shared<RmsNorm>("model.norm", width, shape_.norm_eps));
  head_ = register_module("lm_head",
                          std::make_shared<Slot>("lm_head", Role::lm_head, vocabulary, width, /*has_bias=*/false));
}

at::Tensor Model::logits(const at::Tensor& hidden) { return head_->forward(norm_->forward(hidden)); }

at::Tensor Model::forward(const at::Tensor& ids, KvCache* cache) {
  Pass pass{.cache = cache};
  if (cache != nullptr) pass.position = cache->length(0);
  at::Tensor hidden = embed(ids);  // [B, T, D]
  for (size_t step = 0; step < plan.size(); ++step) {
    TORCH_CHECK(plan[step].kv == Step::kOwn, "step ", step, ": keys and values of another step are not implemented");
    pass.step = static_cast<int64_t>(step);
    hidden = block(plan[step].block).forward(hidden, pass);
  }
  return logits(hidden);  // [B, T, V]
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

// Calls `visit` for every Loadable in order of registration; a Loadable's own children belong to it.
void for_each_loadable(torch::nn::Module& module, const std::function<void(Loadable&)>& visit) {
  if (auto* loadable = dynamic_cast<Loadable*>(&module)) return visit(*loadable);
  for (const auto& child : module.children()) for_each_loadable(*child, visit);
}

}  // namespace

void Model::check(const Weights& weights) const {
  for_each_loadable(const_cast<Model&>(*this), [&](Loadable& loadable) {
    const bool shared = shape_.tied && &loadable == head_.get();
    if (!shared) loadable.check(weights);
  });
}

void Model::load_ends(const Weights& weights) {
  embedding_->load(weights);
  norm_->load(weights);
  if (!shape_.tied) return head_->load(weights);
  head_->put(embedding_->pointer());
}

void load(torch::nn::Module& module, const Weights& weights) {
  if (auto* model = dynamic_cast<Model*>(&module)) {  // its head may have no tensor of its own
    model->load_ends(weights);
    for (int64_t i = 0; i < model->shape().layers; ++i) load(model->block(i), weights);
  } else {
    for_each_loadable(module, [&](Loadable& loadable) { loadable.load(weights); });
  }
}

void unload(torch::nn::Module& module) {
  for_each_loadable(module, [](Loadable& loadable) { loadable.unload(); });
}

void unload(torch::nn::Module& module, const Weights& weights) {
  for_each_loadable(module, [&](Loadable& loadable) {
    std::vector<std::string> names;
    for (const State& entry : loadable.state()) names.push_back(entry.name);
    if (const auto* slot = dynamic_cast<const Slot*>(&loadable)) {  // something else may be in it by now
      names.insert(names.end(), {slot->path() + ".weight", slot->path() + ".bias"});
    }
    loadable.unload();
    for (const std::string& name : names) weights.release(name);
  });
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

namespace {

// What running a module once costs, without what storing it costs.
Cost running(const Cost& cost) { return {.macs = cost.macs, .bytes_read = cost.bytes_read}; }

}  // namespace

bool shares_embedding(Model& model) { return model.head().pointer() == model.embedding().pointer(); }

Cost bill_of_ends(Model& model) {
  Cost sum = model.embedding().cost();
  sum += model.norm().cost();
  Cost head = shares_embedding(model) ? running(model.head().cost()) : model.head().cost();
  if (model.shape().tied) head.weights = 0;
  sum += head;
  return sum;
}

Cost bill_of_block(Block& block, int64_t runs) {
  Cost sum;
  for_each_loadable(block, [&](Loadable& loadable) { sum += loadable.cost(); });
  const Cost once = sum;
  for (int64_t extra = 1; extra < runs; ++extra) sum += running(once);
  return sum;
}

std::vector<int64_t> runs_of(const Plan& plan, int64_t layers) {
  std::vector<int64_t> runs(layers, 0);
  for (const Step& step : plan) ++runs.at(step.block);
  return runs;
}

Cost bill(Model& model) {
  Cost sum = bill_of_ends(model);
  const std::vector<int64_t> runs = runs_of(model.plan, model.shape().layers);
  for (int64_t i = 0; i < model.shape().layers; ++i) sum += bill_of_block(model.block(i), runs[i]);
  return sum;
}

}  // namespace core
