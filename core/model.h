// A decoder-only language model as the rest of Refrain sees it: embedding, blocks, norm, head, and the plan that says
// in which order the blocks run. Families (models/) supply the blocks; nobody else needs a family's names.
//
// Axis letters, everywhere: B batch, T tokens, D width, H heads, K key/value heads, C head width, F ffn width, E
// experts, V vocabulary, O outputs, I inputs, G groups, S group size, R replicas, L layers, N windows.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/block.h"
#include "core/nn/norm.h"
#include "core/nn/slot.h"

namespace core {

// Token embedding: a slot whose linear [V, D] is looked up by rows. A tied head holds the very same linear.
class Embedding : public Slot {
 public:
  Embedding(const std::string& path, int64_t vocabulary, int64_t width)
      : Slot(path, Role::embed_tokens, vocabulary, width, /*has_bias=*/false) {}

  at::Tensor forward(const at::Tensor& ids) const { return linear().rows(ids); }  // [B, T] int64 -> [B, T, D]
  at::Device device() const;

  std::vector<State> state() const override;
  Cost cost() const override;  // a token reads one row and multiplies nothing
};

// One step of a forward pass: which block runs, as which replica, and whose keys and values it attends to. Several
// replicas may run side by side on one input: each half of the block then adds the mean of theirs, and all attend to
// the keys and values of the first.
struct Step {
  static constexpr int64_t kOwn = -1;
  int64_t block = 0;
  int64_t replica = 0;     // the first of them
  int64_t kv = kOwn;       // kOwn, or an earlier step whose keys and values are attended to
  int64_t parallel = 1;    // replicas side by side
  Half only = Half::none;  // the half of the block that runs; none: both. Not of replicas side by side

  bool operator==(const Step&) const = default;
};
using Plan = std::vector<Step>;

std::string path_of_block(int64_t index);              // "model.layers.3"
std::string path_in(const Slot& slot, int64_t block);  // path of the same linear in another block

Plan default_plan(int64_t layers);                    // 0 … L-1
int64_t last_reader(const Plan& plan, int64_t step);  // the last step that attends to its keys; itself if none does

// What a family tells about a model before any tensor is read.
struct Shape {
  std::string family = {};  // model_type of config.json
  int64_t layers = 0, width = 0, vocabulary = 0;
  int64_t heads = 0, kv_heads = 0, head_width = 0;
  int64_t context = 0;  // max_position_embeddings, tokens
  bool tied = false;    // the head is the embedding; config.json says so until the tensors are loaded
  double norm_eps = 0;
};

class SideBySide;  // core/side_by_side.h

class Model : public torch::nn::Module {
 public:
  Model(Shape shape, MakeBlock make_block);

  at::Tensor embed(const at::Tensor& ids) const { return embedding_->forward(ids); }  // [B, T] -> [B, T, D]
  at::Tensor logits(const at::Tensor& hidden);                                        // [..., D] -> [..., V]
  // Through the plan: [B, T] -> [B, T, D] behind the last step, and -> [B, T, V].
  at::Tensor states(const at::Tensor& ids, KvCache* cache = nullptr);
  at::Tensor forward(const at::Tensor& ids, KvCache* cache = nullptr) { return logits(states(ids, cache)); }

  at::Tensor run(const Step& step, const at::Tensor& x, const Pass& pass);  // one step: [B, T, D] -> [B, T, D]

  // Whatever runs a block again does so as a replica of it: a block of its own whose slots and norms share what the
  // block holds until they get something of their own. `follow` makes those that a plan names.
  const Plan& plan() const { return plan_; }
  void follow(Plan plan);
  std::vector<Block*> replicas(int64_t index);  // of a block, from replica 1 on

  // The slot of the blocks at a path; TORCH_CHECKs that there is one. Replicas have paths of their own, and are not
  // here.
  Slot& slot(const std::string& path) const;
  // Path of the expert that a slot belongs to, "model.layers.3.mlp.experts.7"; "": it belongs to none.
  std::string expert_path(const Slot& slot);

  const Shape& shape() const { return shape_; }
  Block& block(int64_t index, int64_t replica = 0) {
    return replica == 0 ? *blocks_.at(index) : *replicas_.at(index).at(replica - 1);
  }
  std::vector<Slot*> slots();  // of all blocks, in order; without replicas and the head
  Embedding& embedding() { return *embedding_; }
  RmsNorm& norm() { return *norm_; }
  Slot& head() { return *head_; }

  // Every tensor that the model needs is there, with its shape. A tied pair may be stored under either name.
  void check(const Weights& weights) const;
  // Embedding, last norm and head (tied: one linear in both slots). A model that config.json ties is not tied if the
  // file holds a head that differs from the embedding; it then warns, and shape().tied is false.
  void load_embedding_and_head(const Weights& weights);
  void untie() { shape_.tied = false; }  // the tensors show that the head is not the embedding

 private:
  void check_embedding_and_head(const Weights& weights) const;
  // A block or a replica whose slots know their places. TORCH_CHECKs that a block with experts says so by its mixture.
  std::shared_ptr<Block> made_block(const std::string& path, int64_t index) const;

  Shape shape_;
  MakeBlock make_block_;
  Plan plan_;
  std::shared_ptr<Embedding> embedding_;
  std::vector<std::shared_ptr<Block>> blocks_;
  std::map<std::string, Slot*> slots_;                         // of the blocks, by path
  std::vector<std::vector<std::shared_ptr<Block>>> replicas_;  // per block, from replica 1 on
  // Of every step with several replicas, by block, first replica and their number.
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::shared_ptr<SideBySide>> side_by_side_;
  std::shared_ptr<RmsNorm> norm_;
  std::shared_ptr<Slot> head_;
};

// Everything a module stores, each tensor once (a tied head appears as the embedding only), with Hugging Face names.
std::vector<State> named_state(torch::nn::Module& module);

// Whether the head computes with the embedding's own tensors.
bool shares_embedding(Model& model);

// The bill of a module: its slots by their linears, everything else as stored. A tied head costs MACs and reads, not
// storage; one that was untied is stored, but stands for no original weights of its own.
Cost bill(Model& model);
Cost bill_of_embedding_and_head(Model& model);  // embedding, last norm and head
Cost storage_of(Block& block);  // what a block, or a replica beside its block, stores; without running it
// A block and its replicas: stored once, run as often as the plan says. A step of a later pass reads what the block
// holds again unless all blocks since its last step fit into cache_bytes, each taken to be as large as this one; what
// the replica has of its own is always read.
Cost bill_of_block(Model& model, int64_t index, int64_t cache_bytes = 0);

// Loads or unloads all Loadable modules inside; of a model, replicas hold nothing that could be loaded.
void load(torch::nn::Module& module, const Weights& weights);
void unload(torch::nn::Module& module);

}  // namespace core
