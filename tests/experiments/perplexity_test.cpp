// Perplexity against a slow reference: every window through the whole model on its own, softmax in double, plain loops.
#include "experiments/measure/perplexity.h"

#include <gmock/gmock.h>

#include <cmath>

#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

// The tiny model with all its tensors, and windows of the lab's text.
struct Measured {
  Lab lab;
  Spec spec;
  Inputs inputs{""};
  const ModelFiles& files;
  std::shared_ptr<core::Model> model;
  core::ResidentSource source;
  core::Windows windows;

  explicit Measured(const Strings& overrides = {})
      : spec(lab.points(overrides).front().spec),
        files(inputs.model(spec.model.path)),
        model(models::build(files.config)),
        source(weights_of(spec, files)),
        windows(inputs.windows(files, spec.measure.perplexity.front(), model->shape())) {
    model->load_ends(weights_of(spec, files));
    for (int64_t i = 0; i < model->shape().layers; ++i) source.load(*model, i);
  }
};

// −Σ ln p(token t | tokens before) of one window.
double reference(core::Model& model, std::span<const int32_t> window) {
  at::NoGradGuard no_gradient;
  const at::Tensor ids = at::tensor(std::vector<int64_t>(window.begin(), window.end())).unsqueeze(0);
  const at::Tensor logits = model.forward(ids)[0].to(at::kDouble).contiguous();  // [T, V]
  const int64_t V = logits.size(1);
  double sum = 0;
  for (size_t t = 1; t < window.size(); ++t) {
    const double* row = logits.const_data_ptr<double>() + static_cast<int64_t>(t - 1) * V;
    double total = 0;
    for (int64_t v = 0; v < V; ++v) total += std::exp(row[v]);
    sum += std::log(total) - row[window[t]];
  }
  return sum;
}

TEST(Perplexity, EqualsASlowReferenceWindowByWindow) {
  Measured m;
  const std::vector<double> fast = window_nll(*m.model, m.source, m.windows, 4096);
  ASSERT_EQ(fast.size(), 3u);
  for (int64_t n = 0; n < 3; ++n) {
    // a float32 logit of magnitude below 32 has an error below 32 · 1e-6 per scored position
    EXPECT_NEAR(fast[n], reference(*m.model, m.windows.window(n)), 63 * 3.2e-5) << "window " << n;
  }
}

TEST(Perplexity, LongWindowsAreScoredInChunksWithoutAGap) {
  Measured m({"measure.perplexity[0].seq_len=640", "measure.perplexity[0].windows=1"});
  const std::vector<double> fast = window_nll(*m.model, m.source, m.windows, 4096);
  EXPECT_NEAR(fast.at(0), reference(*m.model, m.windows.window(0)), 639 * 3.2e-5);
}

TEST(Perplexity, BatchesChangeTheOrderOfWorkOnly) {
  Measured m({"measure.perplexity[0].windows=5"});
  std::vector<int64_t> steps;
  const std::vector<double> one = window_nll(*m.model, m.source, m.windows, 1, [&](int64_t done, int64_t total) {
    steps.push_back(done);
    EXPECT_EQ(total, m.model->shape().layers);
  });
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  const std::vector<double> two = window_nll(*m.model, m.source, m.windows, 128);
  for (size_t n = 0; n < 5; ++n) EXPECT_NEAR(one[n], two[n], 63 * 3.2e-5) << "window " << n;
}

TEST(Perplexity, MeanAndStandardErrorAreThoseOfTheWindows) {
  const Perplexity p{.corpus = {},
                     .protocol = {},
                     .bos = {},
                     .token_hash = {},
                     .seq_len = 11,
                     .windows = 2,
                     .tokens = 20,
                     .window_nll = {10.0, 30.0}};  // means 1 and 3 nats: mean 2, variance 2, standard error 1
  EXPECT_DOUBLE_EQ(p.nll(), 2.0);
  EXPECT_DOUBLE_EQ(p.ppl(), std::exp(2.0));
  EXPECT_DOUBLE_EQ(p.ppl_stderr(), std::exp(2.0));
}

TEST(Perplexity, OneWindowHasNoStandardError) {
  const Perplexity p{.corpus = {},
                     .protocol = {},
                     .bos = {},
                     .token_hash = {},
                     .seq_len = 11,
                     .windows = 1,
                     .tokens = 10,
                     .window_nll = {5.0}};
  EXPECT_DOUBLE_EQ(p.ppl(), std::exp(0.5));
  EXPECT_EQ(p.ppl_stderr(), 0.0);
}

TEST(Perplexity, ALossThatIsNotFiniteStopsTheRun) {
  Lab lab;
  const std::string model = lab.copy_of_model();
  std::string huge;
  for (int i = 0; i < 128; ++i) huge += "\x7F\x7F";  // bfloat16: the largest finite number
  overwrite_tensor(model, "model.norm.weight", huge);
  EXPECT_EQ(core::message_of([&] { lab.run({"model.path=" + model}); }),
            lab.file("text.txt") +
                ": the loss of window 0 is not finite. The quantized model is broken, or float16 overflows.");
}

}  // namespace
}  // namespace experiments
