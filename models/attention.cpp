#include "models/attention.h"

#include <ATen/ATen.h>

#include <array>

namespace models {

using core::LinearGroup;
using core::Pass;
using core::RmsNorm;
using core::Role;
using core::Shape;
using core::Slot;

at::Tensor Attention::turned(const core::Rotary& rotary, const at::Tensor& heads, const Pass& pass) const {
  const int64_t position = pass.position + prefix_->length();  // of the first token
  if (pass.spans == nullptr) return rotary.apply(heads, position);
  std::vector<at::Tensor> spans;
  int64_t first = 0;
  for (const core::Span& span : *pass.spans) {
    const int64_t before = span.behind == core::Span::kText ? 0 : pass.spans->at(span.behind).length;
    spans.push_back(rotary.apply(heads.narrow(1, first, span.length), position + before));
    first += span.length;
  }
  return at::cat(spans, 1);
}

GroupedQueryAttention::GroupedQueryAttention(const std::string& path, const Shape& shape,
                                             std::shared_ptr<const core::Rotary> rotary, Options options)
    : Attention(path, shape.kv_heads, shape.head_width, shape.head_width),
      heads_per_kv_(shape.heads / shape.kv_heads),
      head_width_(shape.head_width),
      rotary_(std::move(rotary)) {
  const int64_t queries = shape.heads * shape.head_width, keys = shape.kv_heads * shape.head_width;
  const auto slot = [&](const char* name, Role role, int64_t outputs, int64_t inputs, bool has_bias) {
    return register_module(name, std::make_shared<Slot>(path + "." + name, role, outputs, inputs, has_bias));
  };
  q_proj_ = slot("q_proj", Role::q_proj, queries, shape.width, options.qkv_bias);
  k_proj_ = slot("k_proj", Role::k_proj, keys, shape.width, options.qkv_bias);
  v_proj_ = slot("v_proj", Role::v_proj, keys, shape.width, options.qkv_bias);
  o_proj_ = slot("o_proj", Role::o_proj, shape.width, queries, options.o_bias);
  if (!options.head_norms) return;
  const auto norm = [&](const char* name) {
    return register_module(name, std::make_shared<RmsNorm>(path + "." + name, head_width_, shape.norm_eps));
  };
  q_norm_ = norm("q_norm");
  k_norm_ = norm("k_norm");
}

at::Tensor GroupedQueryAttention::heads_of(const at::Tensor& projected) const {
  return projected.view({projected.size(0), projected.size(1), -1, head_width_});
}

at::Tensor GroupedQueryAttention::rotated(const at::Tensor& projected, RmsNorm* norm, const Pass& pass) const {
  at::Tensor heads = heads_of(projected);
  if (norm != nullptr) heads = norm->forward(heads);
  return turned(*rotary_, heads, pass);
}

at::Tensor GroupedQueryAttention::forward(const at::Tensor& x, const Pass& pass) {
  at::Tensor q, k, v;  // [B, T, H, C] and [B, T, K, C]; no keys are made where those of another step are attended to
  if (pass.given != nullptr) {
    q = rotated(q_proj_->forward(x), q_norm_.get(), pass);
  } else {
    const std::vector<at::Tensor> all = core::forward_each({q_proj_.get(), k_proj_.get(), v_proj_.get()}, x);
    q = rotated(all[0], q_norm_.get(), pass);
    k = rotated(all[1], k_norm_.get(), pass);
    v = heads_of(all[2]);
  }
  return o_proj_->forward(core::attend(q, k, v, pass, prefix().get()));  // [B, T, H · C] -> [B, T, D]
}

std::vector<LinearGroup> GroupedQueryAttention::groups(RmsNorm& norm) {
  return {
      {.slots = {q_proj_.get(), k_proj_.get(), v_proj_.get()},
       .producer = {.norm = &norm},
       .parent = [this](const at::Tensor& x) { return forward(x, Pass{}); }},
      {.slots = {o_proj_.get()},
       .producer = {.slot = v_proj_.get(), .heads_per_kv = heads_per_kv_, .head_width = head_width_},
       .parent = {}},
  };
}

}  // namespace models
