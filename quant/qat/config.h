// The `qat` section: what of the quantization is trained, on what, and how long.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/state.h"
#include "quant/config.h"
#include "quant/qat/trained_linear.h"

namespace quant {

// What `qat.method` can be.
struct QatMethod {
  const char* name;
  const char* summary;
  std::vector<std::string> train;  // what it trains; empty: what the key says
  const char* objective;           // of the whole model, for objective: auto
};

const std::vector<QatMethod>& qat_methods();

struct QatConfig : core::Section {
  int64_t steps = 0;
  std::string method = "tune";
  std::vector<std::string> train{"scale", "zero_point"};
  std::string scope = "model";
  std::string objective = "auto";
  double lr = 1e-2;
  double codes_lr = 0.02;
  int64_t encode_every = 25;
  int64_t warmup = 10;
  int64_t batch = 8;
  double clip_norm = 1.0;
  double weight_decay = 0.0;
  std::string corpus;
  int64_t seq_len = 0;
  double held_out = 0.05;
  std::string held_out_corpus;
  int64_t held_out_windows = 16;
  int64_t eval_every = 20;
  std::string keep = "best";
  int64_t patience = 0;
  bool recompute = false;
  int64_t save_every = 50;

  void keys(core::Keys& k) override;
  void check() const override;

  bool selected() const { return steps > 0; }
  bool tunes_model() const { return selected() && scope != "block"; }
  bool tunes_blocks() const { return selected() && scope != "model"; }
  const QatMethod& chosen() const;
  // Names under `train`: of the method where that says it.
  std::vector<std::string> trained() const;
  std::set<core::Kind> kinds() const;  // of parameters
  bool trains_codes() const;           // of single blocks; the whole model is trained with the codes that they have
  CodeTraining code_training() const;
  std::string model_objective() const;  // kl, ce or hidden
  std::string block_objective() const;  // block_mse or block_token_mse
  bool examines() const { return held_out > 0 || !held_out_corpus.empty(); }
  // Whether the end of the text is kept from calibration, so that runs with and without training see the same. Given
  // explicitly, it is kept without training too.
  bool reserves() const { return held_out > 0 && held_out_corpus.empty() && (selected() || given("held_out")); }
};

// Error when a kind that is to be trained is in none of these linears (nor in the norms), naming those that are.
void check_trainable(const QatConfig& config, const std::vector<Assignment>& assignments, const core::Plan& plan);

}  // namespace quant
