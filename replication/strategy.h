// A strategy says how one set of codes is used several times. A LinearStrategy does so inside a linear, by a format
// with several sets of parameters: the method encodes for the strategy's `initial_format`, and `refine` finds the
// parameters with which the same codes are decoded in the end. A BlockStrategy makes a plan that runs whole blocks
// several times, as replicas, or lets blocks share codes.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/config/keys.h"
#include "core/config/polymorphic.h"
#include "core/model.h"
#include "quant/config.h"

namespace replication {

// A linear, as far as its format must know it.
struct Shape {
  int64_t out_features, in_features;
};

// A rung of the ablation ladder: options of the strategy, with replicas all alike or such that differ at random, and
// whether their parameters are averaged back to one in the end.
struct Rung {
  std::string name;
  core::Node options;
  bool averaged = false;
};

// Options are the strategy's own keys, under replication.<name>; they are checked whether or not it is selected.
class Strategy : public core::Section {
 public:
  void keys(core::Keys&) override {}
  virtual std::string summary() const = 0;  // one line, for --list and the docs

  // Whether it does something to codes; others run blocks of a model in full precision, too.
  virtual bool needs_codes() const { return true; }
  // Variables of quant.weight that it has no use for: setting one is a mistake where every linear is replicated; where
  // only some are, it holds for the others.
  virtual std::vector<std::string> unread() const { return {}; }

  // The ablation ladder, from the bottom: what shows whether replicas matter. Empty: it has none.
  virtual std::vector<Rung> ladder() const { return {}; }
  // Why its replicas cannot be averaged back to one, and what to do; empty: they can.
  virtual std::string refuses_average() const { return "it has no replicas that have a mean"; }
  // Of a finished block: it then computes with one set of parameters, the mean of those of all replicas.
  virtual void average(core::Block& /*block*/, const std::vector<core::Block*>& /*replicas*/) const {}
};

class LinearStrategy : public Strategy {
 public:
  // What decodes the codes in the end. Errors: variables or a shape that the strategy has no use for.
  virtual std::shared_ptr<const quant::WeightFormat> format(const quant::WeightConfig& weight,
                                                            const quant::Place& place, const Shape& shape) const = 0;
  // What the method encodes for; null: `format`, and nothing is refined.
  virtual std::shared_ptr<const quant::WeightFormat> initial_format(const quant::WeightConfig& /*weight*/,
                                                                    const quant::Place& /*place*/,
                                                                    const Shape& /*shape*/) const {
    return nullptr;
  }
  // How the replicas' inputs are quantized, one each; empty: all alike.
  virtual std::vector<quant::ActivationReplica> inputs() const { return {}; }
  // Whether the uses of the codes are one grid, into which `format` has fused them.
  virtual bool collapses() const { return false; }
  // What `refine` reads of the statistics.
  virtual quant::Needs needs() const { return {}; }
  // w: [O, I] float32; encoded: with the parameters of `initial_format`. The parameters of `format` for the same codes.
  virtual quant::Refined refine(const at::Tensor& /*w*/, quant::Encoded encoded, const quant::Statistics& /*x*/,
                                const quant::WeightFormat& /*initial_format*/,
                                const quant::WeightFormat& /*format*/) const {
    return {std::move(encoded)};
  }
};

class BlockStrategy : public Strategy {
 public:
  // Whether `replication.select` has a say in which blocks it runs again.
  virtual bool selects() const { return true; }
  // The steps of a model. chosen: the selected blocks. Error: options that name blocks the model does not have.
  virtual core::Plan plan(const core::Shape& shape, const std::set<int64_t>& chosen) const = 0;
  // What a replica of a finished block has of its own.
  virtual void prepare(core::Block& /*block*/, core::Block& /*replica*/, uint64_t /*seed*/) const {}
  // Of that: whether parameters of quantization are among it, and how many gates.
  virtual bool gives_parameters() const { return false; }
  virtual int64_t gates() const { return 0; }
  virtual int64_t gates_of_block() const { return 0; }  // that a block with replicas has itself
  // Whether blocks follow others whose codes they use, and the plan of a model without those that do.
  virtual bool has_followers() const { return false; }
  virtual core::Plan without_followers(const core::Shape& shape) const { return core::default_plan(shape.layers); }
  // Whether codes of some linears count inputs of further steps or weights of other blocks.
  virtual bool looks_ahead() const { return false; }
  // Inputs whose statistics count for the codes of a linear, beside those of the first step that runs its block.
  virtual std::vector<quant::FurtherInput> further_inputs(const core::Slot& /*slot*/,
                                                          const core::Plan& /*plan*/) const {
    return {};
  }
  // How a linear is coded: on the plain grid, by codes of its own.
  virtual quant::Coding coding(const core::Slot& slot, const quant::WeightConfig& weight, uint64_t seed) const {
    return quant::grid_coding(slot, weight, seed);
  }
};

using Strategies = std::map<std::string, core::Polymorphic<Strategy>>;

Strategies make_strategies();  // with default options

// How the strategy of this name codes one linear. Errors: those of its formats.
quant::Coding coding_by(const std::string& name, const std::shared_ptr<const Strategy>& strategy,
                        const core::Slot& slot, const quant::WeightConfig& weight, uint64_t seed);

// {strategy: name, name: {options}}, which restored_format (replication/config.h) reads.
core::Node description(const std::string& name, const Strategy& strategy);

}  // namespace replication
