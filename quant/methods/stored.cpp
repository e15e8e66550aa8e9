// Codes that are there already: those of a GGUF file, with its scales and minima, so that anybody's file is measured
// beside the model in full precision without being rounded again (quant/grids/ggml_grid.h says on which grid).
// Tensors that the file has as floats stay as the model has them.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "core/error.h"
#include "core/io/model_path.h"
#include "quant/grids/ggml_grid.h"
#include "quant/method.h"

namespace quant {

namespace {

using core::GgmlBlock;
using core::GgmlGrid;

// Q2_0 and TQ2_0 have their level 0 at code 1; signed_full has it at 2.
bool is_mirrored(const GgmlGrid& grid) { return !grid.has_minimum && grid.zero != int64_t{1} << (grid.bits - 1); }

// [O, I] codes, and the parameters of a format that weight_config_of has made.
Encoded read_codes(const core::StoredCodes& stored, int64_t O, int64_t I, const WeightFormat& format) {
  const GgmlGrid& grid = stored.grid;
  const int64_t blocks = I / stored.block, groups = stored.block / grid.group;  // of a row; of a block
  const bool mirrored = is_mirrored(grid);
  const int bias = grid.signed_multiple ? 1 << (grid.scale_bits - 1) : 0;
  const at::Tensor codes = at::empty({O, I}, at::kByte), scale = at::empty({O, blocks}),
                   minimum = at::empty({O, blocks});
  const at::Tensor multiple = at::empty({O, blocks * groups}, at::kByte), lower = at::empty_like(multiple);
  at::parallel_for(0, O, 16, [&](int64_t begin, int64_t end) {
    std::vector<GgmlBlock> row(static_cast<size_t>(blocks));
    for (int64_t o = begin; o < end; ++o) {
      stored.row(o, row.data());
      uint8_t* k = codes.mutable_data_ptr<uint8_t>() + o * I;
      for (int64_t b = 0; b < blocks; ++b, k += stored.block) {
        const GgmlBlock& block = row[static_cast<size_t>(b)];
        std::copy_n(block.codes.begin(), stored.block, k);
        scale.mutable_data_ptr<float>()[o * blocks + b] =
            static_cast<float>(grid.step) * (mirrored ? -block.scale : block.scale);
        if (grid.has_minimum) minimum.mutable_data_ptr<float>()[o * blocks + b] = block.minimum;
        for (int64_t g = 0; grid.is_two_level() && g < groups; ++g) {
          const int64_t at = (o * blocks + b) * groups + g;
          multiple.mutable_data_ptr<uint8_t>()[at] =
              static_cast<uint8_t>(block.multiple[static_cast<size_t>(g)] + bias);
          if (grid.has_minimum) lower.mutable_data_ptr<uint8_t>()[at] = block.minimum_multiple[static_cast<size_t>(g)];
        }
      }
    }
  });
  if (mirrored) codes.neg_().add_(uint8_t((1 << grid.bits) - 1));  // modulo 256
  Encoded encoded{codes, format.layout(O, I)};
  const bool two = grid.is_two_level();
  encoded.parameters.at(two ? "super_scale" : "scale") = scale;
  if (two) encoded.parameters.at("scale_codes") = multiple;
  if (grid.has_minimum) encoded.parameters.at(two ? "super_minimum" : "minimum") = minimum;
  if (grid.has_minimum && two) encoded.parameters.at("minimum_codes") = lower;
  for (const at::Tensor& floats : {scale, minimum}) {
    const bool used = grid.has_minimum || floats.is_same(scale);
    core::require(!used || at::isfinite(floats).all().item<bool>(),
                  "a scale in the file is not finite. Convert the model again.");
  }
  return encoded;
}

struct Stored : Method {
  std::string file;

  std::string summary() const override {
    return "codes, scales and minima of a GGUF file as they are, beside the full-precision model of model.path";
  }
  void keys(core::Keys& k) override {
    k.key("file", file, "a GGUF file of the same model, by its path or by its name, found like model.path");
  }
  bool has_defaults() const override { return false; }
  bool brings_codes() const override { return true; }
  std::vector<std::string> files() const override { return source().files(); }

  std::optional<BroughtCodes> brought(const core::Slot& slot) const override {
    const std::string name = tensor_of(slot);
    const core::StoredTensor stored = source().stored(name);
    const std::vector<int64_t> shape{slot.out_features(), slot.in_features()};
    core::require(stored.shape == shape, "{}: {} is [{}] in {}, and [{}] in the model. Give the GGUF of this model.",
                  where("file"), name, fmt::join(stored.shape, ", "), file, fmt::join(shape, ", "));
    if (stored.codes) return BroughtCodes{name, weight_config_of(stored.codes->grid, stored.codes->block)};
    core::require(stored.view || stored.type == "F32" || stored.type == "F16" || stored.type == "BF16",
                  "{}: {} is {} in {}, whose codes are no grid of ours. Measure the file itself: model.path, method: "
                  "none.",
                  where("file"), name, stored.type, file);
    return std::nullopt;
  }

  Encoded encoded(const core::Slot& slot, const WeightFormat& format) const override {
    const core::StoredTensor stored = source().stored(tensor_of(slot));
    Encoded encoded = read_codes(*stored.codes, slot.out_features(), slot.in_features(), format);
    const at::Device device = slot.filled() ? slot.linear().weight().device() : at::Device(at::kCPU);
    encoded.codes = encoded.codes.to(device);
    for (Parameter& p : encoded.parameters) p.tensor = p.tensor.to(device);
    return encoded;
  }

  std::vector<Quantized> quantize(core::BlockContext&, const std::vector<Target>& targets) const override {
    std::vector<Quantized> all;
    for (const Target& target : targets)
      all.push_back(named(target.slot->path(), [&] { return Quantized{encoded(*target.slot, *target.format)}; }));
    return all;
  }

 private:
  // Opened when it is first asked for; reads no tensor.
  const core::TensorSource& source() const {
    core::require(!file.empty(), "{}: it is missing. Name the GGUF file whose codes are to be measured.",
                  where("file"));
    if (source_ != nullptr) return *source_;
    try {
      source_ = core::open_tensors(core::find_model(file));
    } catch (const core::UserError& error) {
      core::fail("{}: {}", where("file"), error.what());
    }
    return *source_;
  }

  // A tied head is left out of files.
  std::string tensor_of(const core::Slot& slot) const {
    const std::string name = slot.path() + ".weight";
    const bool tied = slot.role() == core::Role::lm_head && !source().has(name);
    return tied ? "model.embed_tokens.weight" : name;
  }

  mutable std::shared_ptr<const core::TensorSource> source_;
};

}  // namespace

core::Polymorphic<Method> make_stored() { return Stored{}; }

}  // namespace quant
