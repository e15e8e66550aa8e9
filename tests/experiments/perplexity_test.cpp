// Perplexity by both protocols against a slow reference: every window through the whole model on its own, softmax in
// double, plain loops.
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
  Resources resources{""};
  const ModelFiles& files;
  std::shared_ptr<core::Model> model;
  core::ResidentSource source;
  core::Windows windows;

  explicit Measured(const Strings& overrides = {})
      : spec(lab.points(overrides).front().spec),
        files(resources.model(spec.model.path)),
        model(models::build(files.config)),
        source(weights_of(spec, files)),
        windows(windows_of(first_perplexity(spec), resources, files, model->shape())) {
    model->load_embedding_and_head(weights_of(spec, files));
    for (int64_t i = 0; i < model->shape().layers; ++i) source.load(*model, i);
  }
};

struct SlowPerplexity {
  double nll = 0, squares = 0;
};

// −Σ ln p(token t | tokens before) of one window over t ≥ first + 1, and the same of the squares.
SlowPerplexity reference(core::Model& model, std::span<const int32_t> window, size_t first = 0) {
  at::NoGradGuard no_gradient;
  const at::Tensor ids = at::tensor(std::vector<int64_t>(window.begin(), window.end())).unsqueeze(0);
  const at::Tensor logits = model.forward(ids)[0].to(at::kDouble).contiguous();  // [T, V]
  const int64_t V = logits.size(1);
  SlowPerplexity sums;
  for (size_t t = first + 1; t < window.size(); ++t) {
    const double* row = logits.const_data_ptr<double>() + static_cast<int64_t>(t - 1) * V;
    double total = 0;
    for (int64_t v = 0; v < V; ++v) total += std::exp(row[v]);
    const double nll = std::log(total) - row[window[t]];
    sums.nll += nll;
    sums.squares += nll * nll;
  }
  return sums;
}

TEST(Perplexity, EqualsASlowReferenceWindowByWindow) {
  Measured m;
  const std::vector<double> fast = score(*m.model, m.source, m.windows, {.batch_tokens = 4096}).window_nll;
  ASSERT_EQ(fast.size(), 3u);
  for (int64_t n = 0; n < 3; ++n) {
    // a float32 logit of magnitude below 32 has an error below 32 · 1e-6 per scored position
    EXPECT_NEAR(fast[n], reference(*m.model, m.windows.window(n)).nll, 63 * 3.2e-5) << "window " << n;
  }
}

TEST(Perplexity, LongWindowsAreScoredInChunksWithoutAGap) {
  Measured m({"measure.perplexity[0].seq_len=640", "measure.perplexity[0].windows=1"});
  const std::vector<double> fast = score(*m.model, m.source, m.windows, {.batch_tokens = 4096}).window_nll;
  EXPECT_NEAR(fast.at(0), reference(*m.model, m.windows.window(0)).nll, 639 * 3.2e-5);
}

TEST(Perplexity, BatchesChangeTheOrderOfWorkOnly) {
  Measured m({"measure.perplexity[0].windows=5"});
  std::vector<int64_t> steps;
  const auto on_step = [&](int64_t done, int64_t total) {
    steps.push_back(done);
    EXPECT_EQ(total, m.model->shape().layers);
  };
  const ScoreOptions singly{.batch_tokens = 1, .on_step = on_step};
  const std::vector<double> one = score(*m.model, m.source, m.windows, singly).window_nll;
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  const std::vector<double> two = score(*m.model, m.source, m.windows, {.batch_tokens = 128}).window_nll;
  for (size_t n = 0; n < 5; ++n) EXPECT_NEAR(one[n], two[n], 63 * 3.2e-5) << "window " << n;
}

// What llama.cpp's tool computes, written as plainly as it can be: chunks of n_ctx tokens, positions n_ctx / 2 …
// n_ctx − 2 of each, sums of the losses and of their squares.
TEST(LlamaCpp, EqualsASlowReferenceAtEveryLength) {
  for (const char* seq_len : {"3", "4", "31", "64", "101"}) {
    Measured m({"measure.perplexity[0].protocol=llama.cpp", std::string("measure.perplexity[0].seq_len=") + seq_len,
                "measure.perplexity[0].windows=4"});
    Perplexity fast = unmeasured(first_perplexity(m.spec), m.windows);
    fast.scores = score(*m.model, m.source, m.windows);
    const int64_t n_ctx = std::stoll(seq_len), first = n_ctx / 2;
    double nll = 0, nll2 = 0, count = 0;
    for (int64_t chunk = 0; chunk < 4; ++chunk) {
      const SlowPerplexity sums = reference(*m.model, m.windows.window(chunk), first);
      EXPECT_NEAR(fast.scores.window_nll[chunk], sums.nll, static_cast<double>(n_ctx) * 3.2e-5) << seq_len;
      nll += sums.nll;
      nll2 += sums.squares;
      count += static_cast<double>(n_ctx - first - 1);
    }
    EXPECT_EQ(fast.tokens, count) << seq_len;
    nll /= count;
    nll2 = nll2 / count - nll * nll;
    EXPECT_NEAR(fast.ppl(), std::exp(nll), 1e-4 * std::exp(nll)) << seq_len;
    EXPECT_NEAR(fast.ppl_stderr_tokens(), std::sqrt(nll2 / (count - 1)) * std::exp(nll), 1e-3 * std::exp(nll))
        << seq_len;
  }
}

TEST(LlamaCpp, TheDefaultLengthIs512AndThatOfGptq2048) {
  PerplexityConfig config;
  EXPECT_EQ(config.length(), 2048);
  config.protocol = "llama.cpp";
  EXPECT_EQ(config.length(), 512);
  config.seq_len = 128;
  EXPECT_EQ(config.length(), 128);
}

TEST(LlamaCpp, MistakesAreRefusedInOneLine) {
  const Lab lab;
  const auto refused = [&](const Strings& overrides) { return core::message_of([&] { lab.run(overrides); }); };
  const std::string protocol = "measure.perplexity[0].protocol=llama.cpp";
  EXPECT_EQ(refused({protocol, "measure.perplexity[0].seq_len=2"}),
            "--set measure.perplexity[0].seq_len=2: measure.perplexity[0].seq_len is 2: nothing is left to predict. "
            "Choose at least 3, or 0.");
  lab.put("text.txt", "Too short.\n");
  EXPECT_THAT(refused({protocol}),
              ::testing::MatchesRegex(lab.file("text.txt") +
                                      ": [0-9]+ tokens are too few: llama.cpp's protocol needs "
                                      "two windows of 64. Choose a smaller seq_len or a longer corpus."));
}

// ---- figures from the sums of windows ----

Perplexity of_windows(std::vector<double> nll, std::vector<double> squares, int64_t tokens) {
  const auto windows = static_cast<int64_t>(nll.size());
  return {.corpus = {},
          .protocol = "llama.cpp",
          .bos = {},
          .token_hash = {},
          .seq_len = 21,
          .windows = windows,
          .tokens = tokens,
          .scores = {.window_nll = std::move(nll), .window_squares = std::move(squares)}};
}

TEST(Perplexity, MeanAndStandardErrorAreThoseOfTheWindows) {
  const Perplexity p = of_windows({10.0, 30.0}, {15.0, 95.0}, 20);  // means 1 and 3 nats: mean 2, variance 2, error 1
  EXPECT_DOUBLE_EQ(p.nll(), 2.0);
  EXPECT_DOUBLE_EQ(p.ppl(), std::exp(2.0));
  EXPECT_DOUBLE_EQ(p.ppl_stderr(), std::exp(2.0));
  // of positions: mean square 5.5, variance 1.5
  EXPECT_DOUBLE_EQ(p.ppl_stderr_tokens(), std::exp(2.0) * std::sqrt(1.5 / 19));
}

TEST(Perplexity, OneWindowHasNoStandardErrorOfWindows) {
  const Perplexity p = of_windows({5.0}, {4.5}, 10);
  EXPECT_DOUBLE_EQ(p.ppl(), std::exp(0.5));
  EXPECT_EQ(p.ppl_stderr(), 0.0);
  EXPECT_DOUBLE_EQ(p.ppl_stderr_tokens(), std::exp(0.5) * std::sqrt(0.2 / 9));
}

TEST(Perplexity, TheRunningEstimateIsThatOfTheWindowsSoFar) {
  const Perplexity p = of_windows(std::vector<double>(11, 10.0), std::vector<double>(11, 20.0), 110);
  EXPECT_THAT(running_estimate(p), ::testing::StartsWith("[1]2.7183,[2]2.7183,"));
  EXPECT_THAT(running_estimate(p), ::testing::EndsWith("[10]2.7183,\n[11]2.7183,\n"));
  EXPECT_EQ(running_estimate(of_windows({0.0, 10.0}, {0.0, 20.0}, 10)), "[1]1.0000,[2]2.7183,\n");
}

TEST(Perplexity, AQuantileIsInterpolatedBetweenNeighbours) {
  EXPECT_EQ(quantile({3, 1, 2}, 0.5), 2.0);
  EXPECT_EQ(quantile({4, 1, 2, 3}, 0.5), 2.5);
  EXPECT_EQ(quantile({4, 1, 2, 3}, 1.0), 4.0);
  EXPECT_EQ(quantile({4, 1, 2, 3}, 0.0), 1.0);
  EXPECT_EQ(quantile({7}, 0.99), 7.0);
  std::vector<float> hundred(101);
  for (int i = 0; i <= 100; ++i) hundred[i] = static_cast<float>(100 - i);
  EXPECT_DOUBLE_EQ(quantile(hundred, 0.99), 99.0);
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
