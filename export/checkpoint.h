// Our own checkpoint: a Hugging Face directory in which quantized linears store codes and parameters instead of
// weights.
//
//   config.json, tokenizer files     copied from the source model
//   block-00003.safetensors          one shard per block, written as soon as the block is finished
//   ends.safetensors                 embedding, last norm, head if it has tensors of its own
//   model.safetensors.index.json     which shard holds which tensor
//   refrain.json                     formats, hashes, plan (export/manifest.h); written last: its presence means
//   "complete"
//
// Tensors of a quantized linear at `path` with weight [O, I] and codes of b bits:
//   path.codes        U8 [O, ceil(I · b / 8)], the canonical layout of core/codes.h
//   path.<parameter>  floats: F16, BF16 or F32 in the parameter's shape; integer zeros and scales of b bits, [O, G]:
//                     U8 [O, ceil(G · b / 8)], like codes
//   path.activation_scale, path.activation_zero_point
//                     F32 [G], of static quantized inputs, also of a dense linear
//   path.bias         and everything that quantization did not touch: byte for byte as in the source
// A linear whose codes another one stores has no path.codes. What replica r of a block has of its own lies in the
// block's shard, under "model.layers.3.replica<r>" in place of "model.layers.3".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/walk.h"
#include "export/manifest.h"
#include "quant/grids/weight_format.h"

namespace exports {

// How far an unfinished checkpoint has come: `directory` holds one file per finished block, block-00003.json, written
// after its shard. It describes the block's modules as refrain.json will, and keeps what the stages want to know of it.
struct Progress {
  std::string directory;             // empty: nothing is kept, every walk starts anew
  std::vector<core::Stage*> stages;  // those whose records are kept
};

// The last stage of a walk: writes each block as soon as the stages before it are done with it.
class Save : public core::Stage {
 public:
  static constexpr int kVersion = 1;  // bumped by hand when the files change

  // source: the open checkpoint in source_directory, from which untouched tensors are copied. The two directories must
  // differ.
  Save(std::string source_directory, core::Weights source, std::string directory, std::string commit = {},
       Progress progress = {});

  std::string name() const override { return "save"; }
  int version() const override { return kVersion; }
  // From here until end() the directory is not a checkpoint. Finished blocks are restored.
  void begin(core::Model& model) override;
  void block(core::BlockContext& context) override;
  void end(core::Model& model) override;

  // What the progress knows of finished blocks, given to the stages again; without a walk if all are finished.
  void restore_finished(const core::Model& model);

 private:
  class Shard;
  void add(const Manifest& block);  // its modules
  void write(const Shard& shard, const std::string& file) const;
  void write_index(const core::Model& model) const;
  void copy_small_files(const core::Model& model) const;

  std::string source_directory_, directory_;
  core::Weights source_;
  Progress progress_;
  Manifest manifest_;
};

// The source of a walk that can be resumed: full-precision blocks come from the model, finished ones from the
// checkpoint that Save is writing. A block is dropped when the walk leaves it.
class UnfinishedSource : public core::StreamedSource {
 public:
  // directory, progress: as given to Save.
  UnfinishedSource(core::Weights weights, std::string directory, std::string progress)
      : StreamedSource(std::move(weights)), directory_(std::move(directory)), progress_(std::move(progress)) {}
  bool finished(int64_t block) const override;
  void load_finished(core::Model& model, int64_t block) override;
  // Codes and parameters of a linear of a finished block, without loading the block.
  quant::Encoded encoded(core::Model& model, const std::string& path) const;

 private:
  Manifest description_of(int64_t block) const;
  core::Weights shard_of(int64_t block) const;

  std::string directory_, progress_;
};

// Of weights: kept once loaded, or dropped when the walk leaves the block, linears of feed-forward networks as soon as
// they are used.
enum class Residency { resident, stream };

// Fills the blocks of a skeleton from our checkpoint: a QuantizedLinear where there are codes, a DenseLinear elsewhere.
// Errors: codes whose hash differs from refrain.json's, a value that is not finite.
class RestoringSource : public core::BlockSource {
 public:
  RestoringSource(const core::Weights& weights, Manifest manifest, Residency residency)
      : weights_(residency == Residency::stream ? weights.streamed() : weights),
        manifest_(std::move(manifest)),
        residency_(residency) {}
  void load(core::Model& model, int64_t block) override;
  void release(core::Model& model, int64_t block) override;

 private:
  core::Weights weights_;
  Manifest manifest_;
  Residency residency_;
};

// The directory holds a complete checkpoint of ours.
bool is_quantized_checkpoint(const std::string& directory);

// Everything that the model needs from `directory`, a Hugging Face model or a checkpoint of ours opened as `weights`,
// is there with its shape. Reads no tensor; of ours, the model follows the plan. Errors are one line that names the
// file and the tensor or entry.
void check(core::Model& model, const std::string& directory, const core::Weights& weights);

// Embedding, last norm and head of a model in `directory`, a Hugging Face model or a checkpoint of ours.
void load_embedding_and_head(core::Model& model, const std::string& directory, const core::Weights& weights);

// `check`, then the source that fits the directory. The ends are loaded by load_ends.
std::unique_ptr<core::BlockSource> open_source(core::Model& model, const std::string& directory,
                                               const core::Weights& weights, Residency residency = Residency::resident);

// Bytes of the files that hold the tensors of a model, headers included: the `file` figure of the bill.
int64_t bytes_on_disk(const std::string& directory);

}  // namespace exports
