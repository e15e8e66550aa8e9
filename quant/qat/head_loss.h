// What a model's final hidden states lose, and the gradient with respect to them, without all logits in memory: the
// head is applied to some positions at a time, and their logits are forgotten before the next ones.
#pragma once

#include <functional>
#include <string>

#include "core/model.h"

namespace quant {

// The full-precision model at the end of its blocks.
struct Teacher {
  std::function<at::Tensor(const at::Tensor&)> logits;  // its last norm and head: [n, D] -> [n, V]
};

// objective: kl: mean over positions of KL(teacher ‖ model); ce: mean cross entropy of the next token, in nats; hidden:
// mean square of the difference, relative to the mean square of the teacher's.
// hidden, taught: [B, T, D] behind the last block, taught undefined for ce; ids: [B, T] int64. Positions 0 … T−2 count
// (hidden: all).
// gradient: if not null, gets that of the loss with respect to `hidden`, [B, T, D]; gradients of the model's last norm
// and head are added to them where they require any. logits_at_once: values of one model's logits that exist at a
// time, but at least 64 positions.
double head_loss(core::Model& model, const at::Tensor& hidden, const at::Tensor& taught, const at::Tensor& ids,
                 const std::string& objective, const Teacher& teacher, at::Tensor* gradient,
                 int64_t logits_at_once = 1 << 23);

}  // namespace quant
