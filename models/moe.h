// A mixture of experts (Shazeer 2017, arXiv 1701.06538) as DeepSeekMoE (Dai 2024, arXiv 2401.06066) and Qwen use it: a
// router sends each token to the top k of E experts, whose outputs are weighted with the softmax of the router; shared
// experts see every token.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/mlp.h"

namespace models {

struct MoeShape {
  int64_t width = 0;             // D
  int64_t experts = 0;           // E
  int64_t top_k = 0;             // experts of a token
  int64_t ffn = 0;               // F of one expert
  int64_t shared_ffn = 0;        // F of all shared experts together; 0: there are none
  bool normalize = false;        // the weights of a token's experts are made to sum to 1
  double scaling = 1;            // factor on the weights
  bool has_bias = false;         // of the experts' linears
  std::string shared_name = {};  // of the shared experts' module
  bool shared_gate = false;      // the shared experts are weighted by sigmoid of a linear of the token
};

class Moe : public FeedForward, public core::Mixture {
 public:
  Moe(const std::string& path, const MoeShape& shape);  // path: "model.layers.3.mlp"

  at::Tensor forward(const at::Tensor& x, const core::Pass& pass) override;
  // Linears that see all tokens first, then one expert after the other. What the norm gives is read by experts that see
  // different tokens: none of these groups has it as its producer.
  std::vector<core::LinearGroup> groups(core::RmsNorm& norm) override;

  core::Mixture* mixture() override { return this; }

  core::Slot& router() override { return *gate_; }
  int64_t experts() const override { return shape_.experts; }
  std::string expert_path(int64_t expert) const override;
  std::vector<core::Slot*> slots_of(int64_t expert) override;
  std::vector<core::Slot*> slots_of_shared() override;
  Route route(const at::Tensor& tokens) override;
  at::Tensor run(int64_t expert, const at::Tensor& x) override { return experts_.at(expert)->forward(x); }

 private:
  // experts: [N, k]; undefined: the router chooses.
  Route route_to(const at::Tensor& tokens, const at::Tensor& experts);
  at::Tensor shared(const at::Tensor& tokens);  // [N, D] -> [N, D]

  std::string path_;
  MoeShape shape_;
  std::shared_ptr<core::Slot> gate_;  // the router, [E, D]
  std::vector<std::shared_ptr<Mlp>> experts_;
  std::shared_ptr<Mlp> shared_;              // null: there are none
  std::shared_ptr<core::Slot> shared_gate_;  // [1, D]; null: they count fully
};

}  // namespace models
