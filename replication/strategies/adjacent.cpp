// Shared codes across adjacent blocks (S8): the first of `span` neighbours is coded with span × bits, so that memory
// stays what it was; the others decode the same codes with scales, zero points and norms of their own.
//
// The codes are made of the first block's weights on its inputs, or (from: mean) of the mean of all members' weights
// with the sum of their Hessians: those of the followers, which no quantized block has been run for by then, are taken
// from the full-precision model. With init: fit the leader too then fits its scales and zero points to its own weights.
#include "core/error.h"
#include "quant/affine.h"
#include "replication/affine_fit.h"
#include "replication/strategy.h"

namespace replication {

namespace {

constexpr std::string_view kBlocks = "model.layers.";

// "model.layers.3.mlp.up_proj" -> 3.
int64_t block_of(const std::string& path) { return std::stoll(path.substr(kBlocks.size())); }

// The same linear of another block.
std::string in_block(const std::string& path, int64_t block) {
  return std::string(kBlocks) + std::to_string(block) + path.substr(path.find('.', kBlocks.size()));
}

struct Adjacent : Strategy {
  int64_t span = 2;
  std::string init = "fit", from = "first";

  std::string summary() const override { return "neighbouring blocks share the codes of the first"; }
  void keys(core::Keys& k) override {
    k.key("span", span, "neighbouring blocks that share codes, of span × weight.bits bits", {2, 8});
    k.key(
        "init", init,
        "scales and zero points of the blocks that follow; leader: those of the block whose codes they use; fit: least "
        "squares to their own weights",
        {"fit", "leader"});
    k.key("from", from,
          "what the codes are made of; first: the weights of the first block, on its inputs; mean: the mean of the "
          "weights of all, with the sum of the statistics of their inputs, those of the blocks that follow in full "
          "precision",
          {"first", "mean"})
        .only_if_given();
  }

  bool is_of_blocks() const override { return true; }
  bool selects() const override { return false; }
  core::Plan plan(const core::Shape& shape, const std::set<int64_t>& /*chosen*/) const override {
    core::require(shape.layers % span == 0, "{}: {} blocks are no whole number of groups of {}. Choose a divisor.",
                  where("span"), shape.layers, span);
    return core::default_plan(shape.layers);
  }

  bool has_followers() const override { return true; }
  core::Plan without_followers(const core::Shape& shape) const override {
    core::Plan leaders = plan(shape, {});
    std::erase_if(leaders, [&](const core::Step& step) { return step.block % span != 0; });
    return leaders;
  }
  std::vector<quant::FurtherInput> further_inputs(const std::string& path, int64_t /*block*/,
                                                  const core::Plan& plan) const override {
    std::vector<quant::FurtherInput> all;
    for (const std::string& member : mean_with(path)) {
      const auto runs = [&](const core::Step& step) { return step.block == block_of(member); };
      const auto step = std::find_if(plan.begin(), plan.end(), runs);
      if (step != plan.end()) all.push_back({member, step - plan.begin()});
    }
    return all;
  }

  std::string codes_of(const std::string& path) const override {
    const int64_t block = block_of(path), leader = block - block % span;
    return block == leader ? "" : in_block(path, leader);
  }
  std::vector<std::string> mean_with(const std::string& path) const override {
    std::vector<std::string> followers;
    if (from != "mean" || !codes_of(path).empty()) return followers;
    for (int64_t i = 1; i < span; ++i) followers.push_back(in_block(path, block_of(path) + i));
    return followers;
  }

  std::shared_ptr<const quant::Decoder> decoder(const quant::WeightConfig& weight, const quant::Place& place,
                                                const Shape& shape) const override {
    core::require(weight.codebook == "uniform" && weight.scale_bits == 0 && weight.group_size != 0,
                  "{}: adjacent shares the codes of affine grids with one level of scales. Use codebook: uniform, "
                  "scale_bits: 0 and a group_size other than 0.",
                  place.path);
    core::require(weight.bits * span <= 8, "{}: {} blocks of {} bits would share codes of {} bits. 8 is the most.",
                  place.path, span, weight.bits, weight.bits * span);
    quant::WeightConfig wide = weight;
    wide.bits = weight.bits * span;
    return quant::make_decoder(wide, place.path, shape.in_features, place.seed);
  }
  // The codes come with the parameters of the block that made them.
  std::shared_ptr<const quant::Decoder> encoder(const quant::WeightConfig& weight, const quant::Place& place,
                                                const Shape& shape) const override {
    const bool has_made_them = from == "first" && codes_of(place.path).empty();
    return init == "fit" && !has_made_them ? decoder(weight, place, shape) : nullptr;
  }
  quant::Needs needs() const override { return {.mean_square = true}; }
  quant::Refined refine(const at::Tensor& w, quant::Encoded encoded, const quant::Statistics& x,
                        const quant::Decoder& /*encoder*/, const quant::Decoder& decoder) const override {
    const auto& grid = dynamic_cast<const quant::AffineGrid&>(decoder);
    return {{encoded.codes, fitted(grid, encoded.codes, w, column_weights(w, x))}};
  }
};

}  // namespace

std::shared_ptr<Strategy> make_adjacent() { return std::make_shared<Adjacent>(); }

}  // namespace replication
