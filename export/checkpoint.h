// Our own checkpoint: a Hugging Face directory in which quantized linears store codes and parameters instead of
// weights.
//
//   config.json, tokenizer files     copied from the source model
//   block-00003.safetensors          one shard per block, written as soon as the block is finished
//   ends.safetensors                 embedding, last norm, untied head
//   model.safetensors.index.json     which shard holds which tensor
//   refrain.json                     decoders, hashes, plan (export/manifest.h); written last: its presence means
//   "complete"
//
// Tensors of a quantized linear at `path` with weight [O, I] and codes of b bits:
//   path.codes        U8 [O, ceil(I · b / 8)], the canonical layout of core/codes.h
//   path.<parameter>  16 stored bits: F16, 32: F32, both in the parameter's shape; integer zeros [O, G]: U8 [O, ceil(G
//   · b / 8)], like codes path.bias         and everything that quantization did not touch: byte for byte as in the
//   source
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "core/walk.h"
#include "export/manifest.h"

namespace exports {

// The last stage of a walk: writes each block as soon as the stages before it are done with it.
class Save : public core::Stage {
 public:
  // source: the open checkpoint in source_directory, from which untouched tensors are copied. The two directories must
  // differ.
  Save(std::string source_directory, core::Weights source, std::string directory, std::string commit = {});

  std::string name() const override { return "save"; }
  int version() const override { return 1; }
  void begin(core::Model& model) override;  // from here until end() the directory is not a checkpoint
  void block(core::BlockContext& context) override;
  void end(core::Model& model) override;

 private:
  class Shard;
  void write(const Shard& shard, const std::string& file);
  void write_index() const;
  void copy_small_files() const;

  std::string source_directory_, directory_;
  core::Weights source_;
  Manifest manifest_;
  std::map<std::string, std::string> files_;  // tensor -> shard
  int64_t bytes_ = 0;                         // of all tensors
};

// Fills the blocks of a skeleton from our checkpoint: a QuantizedLinear where there are codes, a DenseLinear elsewhere.
// Loads a block on the first visit and keeps it. Errors: codes whose hash differs from refrain.json's, a value that is
// not finite.
class RestoringSource : public core::BlockSource {
 public:
  RestoringSource(core::Weights weights, Manifest manifest)
      : weights_(std::move(weights)), manifest_(std::move(manifest)) {}
  void load(core::Model& model, int64_t block) override;
  void release(core::Model&, int64_t) override {}

 private:
  core::Weights weights_;
  Manifest manifest_;
  std::set<int64_t> loaded_;
};

// The directory holds a complete checkpoint of ours.
bool is_quantized_checkpoint(const std::string& directory);

// Everything that the model needs from `directory`, a Hugging Face model or a checkpoint of ours opened as `weights`,
// is there with its shape. Reads no tensor. Errors are one line that names the file and the tensor or entry.
void check(core::Model& model, const std::string& directory, const core::Weights& weights);

// `check`, then the source that fits the directory. Sets model.plan if the directory has one. The embedding, the last
// norm and the head are loaded by model.load_ends(weights) in either case.
std::unique_ptr<core::BlockSource> open_source(core::Model& model, const std::string& directory,
                                               const core::Weights& weights);

// Bytes of the safetensors files of a model directory, headers included: the `file` figure of the bill.
int64_t bytes_on_disk(const std::string& directory);

}  // namespace exports
