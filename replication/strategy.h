// A strategy says how one set of codes is used several times. Inside a linear that is a decoder with several sets of
// parameters: the method encodes for the strategy's `encoder`, and `refine` finds the parameters with which the same
// codes are decoded in the end. Of whole blocks it is a plan that runs them several times, as replicas.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/config/keys.h"
#include "core/model.h"
#include "quant/config.h"

namespace replication {

// A linear, as far as its decoder must know it.
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

  // Variables of quant.weight that it has no use for: setting one is a mistake where every linear is replicated; where
  // only some are, it holds for the others.
  virtual std::vector<std::string> unread() const { return {}; }

  // The ablation ladder, from the bottom: what shows whether replicas matter. Empty: it has none.
  virtual std::vector<Rung> ladder() const { return {}; }
  // Why its replicas cannot be averaged back to one, and what to do; empty: they can.
  virtual std::string refuses_average() const { return "it has no replicas that have a mean"; }
  // Of a finished block: it then computes with one set of parameters, the mean of those of all replicas.
  virtual void average(core::Block& /*block*/, const std::vector<core::Block*>& /*replicas*/) const {}

  // ---- of whole blocks ----

  // Whether it is about whole blocks.
  virtual bool is_of_blocks() const { return false; }
  // Whether it does something to codes; others run blocks of a model in full precision, too.
  virtual bool needs_codes() const { return true; }
  // Whether `replication.select` has a say in which.
  virtual bool selects() const { return true; }
  // The steps of a model. chosen: the selected blocks. Error: options that name blocks the model does not have.
  virtual core::Plan plan(const core::Shape& shape, const std::set<int64_t>& /*chosen*/) const {
    return core::default_plan(shape.layers);
  }
  // What a replica of a finished block has of its own.
  virtual void prepare(core::Block& /*block*/, core::Block& /*replica*/, uint64_t /*seed*/) const {}
  // Of that: whether parameters of quantization are among it, and how many gates.
  virtual bool gives_parameters() const { return false; }
  virtual int64_t gates() const { return 0; }
  // Whether blocks follow others whose codes they use, and the plan of a model without those that do.
  virtual bool has_followers() const { return false; }
  virtual core::Plan without_followers(const core::Shape& shape) const { return core::default_plan(shape.layers); }
  // Inputs whose statistics count for the codes of the linear at `path` of a block, beside those of the first step that
  // runs it.
  virtual std::vector<quant::FurtherInput> further_inputs(const std::string& /*path*/, int64_t /*block*/,
                                                          const core::Plan& /*plan*/) const {
    return {};
  }

  // ---- inside a linear ----

  // What decodes the codes in the end. Errors: variables or a shape that the strategy has no use for.
  virtual std::shared_ptr<const quant::Decoder> decoder(const quant::WeightConfig& weight, const quant::Place& place,
                                                        const Shape& shape) const {
    return quant::make_decoder(weight, place.path, shape.in_features, place.seed);
  }
  // What the method encodes for; null: `decoder`, and nothing is refined.
  virtual std::shared_ptr<const quant::Decoder> encoder(const quant::WeightConfig& /*weight*/,
                                                        const quant::Place& /*place*/, const Shape& /*shape*/) const {
    return nullptr;
  }
  // Path of the linear, of an earlier block, whose codes the one at `path` uses; "": it has codes of its own.
  virtual std::string codes_of(const std::string& /*path*/) const { return {}; }
  // Paths of linears of later blocks: the codes are those of the mean of the weight at `path` and theirs.
  virtual std::vector<std::string> mean_with(const std::string& /*path*/) const { return {}; }
  // How the replicas' inputs are quantized, one each; empty: all alike.
  virtual std::vector<quant::ActivationReplica> inputs() const { return {}; }
  // Whether the uses of the codes are one grid, into which `decoder` has fused them.
  virtual bool collapses() const { return false; }
  // What `refine` reads of the statistics.
  virtual quant::Needs needs() const { return {}; }
  // w: [O, I] float32; encoded: with the parameters of `encoder`. The parameters of `decoder` for the same codes.
  virtual quant::Refined refine(const at::Tensor& /*w*/, quant::Encoded encoded, const quant::Statistics& /*x*/,
                                const quant::Decoder& /*encoder*/, const quant::Decoder& /*decoder*/) const {
    return {std::move(encoded)};
  }
};

using Strategies = std::map<std::string, std::shared_ptr<Strategy>>;

Strategies make_strategies();  // fresh objects with default options

}  // namespace replication
