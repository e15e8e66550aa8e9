// Several continuations of one text in one row: as if each had been read behind it by itself.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "models/registry.h"
#include "tests/models/support.h"

namespace {

// The logits of a row of spans, [T, V]: through the plan, step by step.
at::Tensor logits_of(core::Model& model, const at::Tensor& ids, const core::Spans& spans) {
  const at::NoGradGuard no_gradient;
  at::Tensor x = model.embed(ids.unsqueeze(0));
  const auto steps = static_cast<int64_t>(model.plan().size());
  for (int64_t step = 0; step < steps; ++step) x = model.run(model.plan()[step], x, {.step = step, .spans = &spans});
  return model.logits(x)[0];
}

TEST(Spans, AreReadAsIfEachStoodByItself) {
  for (const std::string& golden : golden_names()) {
    SCOPED_TRACE(golden);
    const auto model = load_model(golden_directory(golden));
    const at::Tensor ids = expected_of(golden, "ids")[0].narrow(0, 0, 15);
    // A text of 5 tokens with three continuations of 3, 1 and 2, and another text of 4.
    const core::Spans spans{{.length = 5},
                            {.length = 3, .behind = 0},
                            {.length = 1, .behind = 0},
                            {.length = 2, .behind = 0},
                            {.length = 4}};
    const at::Tensor found = logits_of(*model, ids, spans);
    const at::NoGradGuard no_gradient;
    const auto alone = [&](const at::Tensor& text) { return model->forward(text.unsqueeze(0))[0]; };
    const auto piece = [&](int64_t first, int64_t length) { return ids.narrow(0, first, length); };
    EXPECT_LT(difference(found.narrow(0, 0, 5), alone(piece(0, 5))), 1e-5);
    EXPECT_LT(difference(found.narrow(0, 11, 4), alone(piece(11, 4))), 1e-5);
    for (const auto& [first, length] : {std::pair{5, 3}, {8, 1}, {9, 2}}) {
      const at::Tensor whole = alone(at::cat({piece(0, 5), piece(first, length)}));
      EXPECT_LT(difference(found.narrow(0, first, length), whole.narrow(0, 5, length)), 1e-5) << first;
    }
  }
}

}  // namespace
