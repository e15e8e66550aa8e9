// The loss at the head, in chunks and with a gradient written by hand, against plain autograd on all logits; and the
// order in which windows are seen.
#include "quant/qat/head_loss.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "quant/qat/batches.h"
#include "quant/qat/tune_blocks.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

constexpr int64_t kB = 3, kT = 40;

struct Heads {
  toy::Toy model, teacher;
  at::Tensor ids = toy::ids(kB, kT);
  at::Tensor hidden = at::randn({kB, kT, toy::kWidth}), taught = hidden + 0.3 * at::randn_like(hidden);

  Teacher teach() {
    return {[this](const at::Tensor& x) { return teacher.model->logits(x); }};
  }
  // Everything at once, with autograd. norm: the last norm requires gradients.
  at::Tensor loss(const std::string& objective, const at::Tensor& h) {
    if (objective == "hidden") return at::square(h - taught).mean() / at::square(taught).mean();
    const auto rows = [](const at::Tensor& x) { return x.slice(1, 0, kT - 1).reshape({kB * (kT - 1), -1}); };
    const at::Tensor q = model.model->logits(rows(h)).log_softmax(-1);
    if (objective == "ce") return at::nll_loss(q, ids.slice(1, 1, kT).reshape({-1}));
    const at::Tensor p = teacher.model->logits(rows(taught)).log_softmax(-1);
    return (p.exp() * (p - q)).sum(-1).mean();
  }
};

TEST(HeadLoss, HasTheValueAndGradientOfPlainAutograd) {
  for (const std::string objective : {"kl", "ce", "hidden"}) {
    SCOPED_TRACE(objective);
    Heads heads;
    const c10::AutoGradMode gradients(true);
    at::Tensor norm = heads.model.model->norm().weight();
    norm.set_requires_grad(true);
    const at::Tensor leaf = heads.hidden.clone().set_requires_grad(true), wanted = heads.loss(objective, leaf);
    wanted.backward();
    const at::Tensor of_norm = norm.grad().defined() ? norm.grad().clone() : at::zeros_like(norm);
    norm.mutable_grad() = at::Tensor();

    at::Tensor gradient;
    const double loss = head_loss(*heads.model.model, heads.hidden, objective == "ce" ? at::Tensor() : heads.taught,
                                  heads.ids, objective, heads.teach(), &gradient, /*logits_at_once=*/1);
    EXPECT_NEAR(loss, wanted.item<double>(), 1e-5 * std::abs(wanted.item<double>()));
    ASSERT_EQ(gradient.sizes(), leaf.sizes());
    EXPECT_LE((gradient - leaf.grad()).abs().max().item<double>(), 1e-5 * leaf.grad().abs().max().item<double>());
    const at::Tensor found = norm.grad().defined() ? norm.grad() : at::zeros_like(norm);
    EXPECT_LE((found - of_norm).abs().max().item<double>(), 1e-5 * of_norm.abs().max().item<double>() + 1e-12);

    const double value =
        head_loss(*heads.model.model, heads.hidden, heads.taught, heads.ids, objective, heads.teach(), nullptr);
    EXPECT_NEAR(value, loss, 1e-6 * std::abs(loss)) << "without a gradient, in one piece";
  }
}

TEST(HeadLoss, IsNothingForTheTeacherItself) {
  Heads heads;
  EXPECT_LT(head_loss(*heads.teacher.model, heads.taught, heads.taught, heads.ids, "kl", heads.teach(), nullptr), 1e-6);
  EXPECT_EQ(head_loss(*heads.teacher.model, heads.taught, heads.taught, heads.ids, "hidden", heads.teach(), nullptr),
            0);
}

TEST(Batches, ShowEveryWindowOnceBeforeAnyAgain) {
  const auto batches = batches_of(/*steps=*/10, /*batch=*/3, /*windows=*/7, /*seed=*/1);
  std::vector<int64_t> seen;
  for (const auto& batch : batches) {
    EXPECT_EQ(batch.size(), 3u);
    seen.insert(seen.end(), batch.begin(), batch.end());
  }
  for (size_t epoch = 0; epoch + 7 <= seen.size(); epoch += 7)
    EXPECT_EQ(std::set<int64_t>(seen.begin() + epoch, seen.begin() + epoch + 7).size(), 7u);
  EXPECT_EQ(batches, batches_of(10, 3, 7, 1));
  EXPECT_NE(batches, batches_of(10, 3, 7, 2));
  const auto longer = batches_of(20, 3, 7, 1);
  EXPECT_TRUE(std::equal(batches.begin(), batches.end(), longer.begin())) << "more steps begin with the same windows";
}

TEST(BlockLoss, PerTokenSeesWhatAMassiveTokenHides) {
  const at::Tensor wanted = at::tensor({1000.0f, 0.0f, 3.0f, 4.0f}).reshape({1, 2, 2});
  const at::Tensor y = at::tensor({1000.0f, 10.0f, 3.0f, 9.0f}).reshape({1, 2, 2});
  EXPECT_NEAR(block_loss("block_mse", y, wanted).item<double>(), (100.0 + 25) / (1e6 + 25), 1e-9);
  EXPECT_NEAR(block_loss("block_token_mse", y, wanted).item<double>(), (1e-4 + 1) / 2, 1e-6);
  const at::Tensor faint = at::tensor({3.0f, 4.0f, 3.0f, 4.0f, 1e-6f, 0.0f}).reshape({1, 3, 2});
  EXPECT_NEAR(block_loss("block_token_mse", faint + 0.1, faint).item<double>(), (2 * 0.02 / 25 + 0.02 / 0.025) / 3,
              1e-5)
      << "a token of almost nothing does not outweigh the others without bound";
  EXPECT_TRUE(std::isfinite(block_loss("block_token_mse", y, at::zeros_like(y)).item<double>()));
}

}  // namespace
}  // namespace quant
