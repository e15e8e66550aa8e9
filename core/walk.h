// The walk: everything that touches weights goes over the plan's steps, block by block, with the inputs of the block at
// hand. So a model larger than memory is not a special case, and a stage sees block i's inputs as the blocks before it
// left them.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/hidden_store.h"
#include "core/model.h"

namespace core {

// Where the weights of block i come from, and how long they stay.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  virtual void load(Model& model, int64_t block) = 0;     // fills the block's slots and norms if they are not filled
  virtual void release(Model& model, int64_t block) = 0;  // the walk has left the block

  // A source that keeps what the stages made of a block: whether it has this one, and the block as it was kept.
  virtual bool finished(int64_t) const { return false; }
  virtual void load_finished(Model&, int64_t) {}
};

// Loads all blocks, for a model that decodes token by token: the source must keep them.
void load_blocks(Model& model, BlockSource& source);

// Drops a block and what its replicas hold of their own; the file's pages go back to the system.
void unload_block(Model& model, int64_t block);

// Loads a block on the first visit and keeps it.
class ResidentSource : public BlockSource {
 public:
  explicit ResidentSource(Weights weights) : weights_(std::move(weights)) {}
  void load(Model& model, int64_t block) override;
  void release(Model&, int64_t) override {}

 private:
  Weights weights_;
  std::set<int64_t> loaded_;
};

// Loads a block at every visit and drops it when the walk leaves it.
class StreamedSource : public BlockSource {
 public:
  explicit StreamedSource(Weights weights) : weights_(std::move(weights)) {}
  void load(Model& model, int64_t block) override { core::load(model.block(block), weights_); }
  void release(Model& model, int64_t block) override { unload_block(model, block); }

 protected:
  const Weights& weights() const { return weights_; }

 private:
  Weights weights_;
};

// The hidden states that a walk carries; a stream that nobody needs is null and costs nothing.
struct Streams {
  HiddenStore* full = nullptr;                // as the full-precision model computes them, which runs every block once
  HiddenStore* quantized = nullptr;           // as the blocks finished so far compute them
  int64_t held_out = 0;                       // batches at the end of each that are no calibration text
  const std::vector<Spans>* spans = nullptr;  // of the batches of `quantized`, as of PlanStream
};

struct BlockContext {
  Model& model;
  Block& block;
  int64_t index;                              // of the block
  int64_t step;                               // of the plan; the first that runs this block
  const Streams& inputs;                      // of this block, calibration text only
  const Streams* all = nullptr;               // the same with what is held out
  const HiddenStore* full_outputs = nullptr;  // of the full-precision block on `all->full`, if there is that stream
};

// One thing done to the weights. Stages do not know each other; experiments/ knows the order.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual std::string name() const = 0;
  virtual int version() const = 0;  // bumped by hand when results change
  virtual void begin(Model&) {}
  virtual void block(BlockContext&) {}
  virtual void end(Model&) {}

  // What the stage wants to know of a finished block when the walk is resumed, as text; asked for after `block` and
  // given back, instead of `block`, after `begin`.
  virtual std::string record() const { return {}; }
  virtual void restore(const std::string& /*record*/) {}
};

// Runs the stages over the plan. Per step: load the block, advance the full-precision stream, let each stage work on
// the block (both only on its first step, the latter not if the source has it finished), take the finished block from
// the source, advance the quantized stream. Between blocks an interrupt is honoured (core/interrupt.h). `on_step(done,
// total)` is told the progress.
void walk(Model& model, BlockSource& source, const std::vector<Stage*>& stages, Streams streams,
          const std::function<void(int64_t, int64_t)>& on_step = {});

}  // namespace core
