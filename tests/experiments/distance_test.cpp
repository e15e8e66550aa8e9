// KL divergence and top-1 agreement: against slow double loops over whole logits, of a model against itself, and with a
// norm and a head of each model's own.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>

#include "core/io/files.h"
#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

// A model with all its tensors.
struct Loaded {
  std::shared_ptr<core::Model> model;
  core::ResidentSource source;

  Loaded(const Spec& spec, const ModelFiles& files)
      : model(models::build(files.config)), source(weights_of(spec, files)) {
    model->load_embedding_and_head(weights_of(spec, files));
    for (int64_t i = 0; i < model->shape().layers; ++i) source.load(*model, i);
  }
};

// Spoils a weight by noise of `share` of its size.
void spoil(core::Slot& slot, double share) {
  const at::Tensor w = slot.linear().weight();
  slot.put(std::make_shared<core::DenseLinear>(w + share * w.std() * at::randn_like(w), at::Tensor(), 16));
}

struct SlowPosition {
  double kl, top, change;
  bool same;
};

struct SlowDistance {
  double kl = 0;
  int64_t same = 0;
  std::vector<SlowPosition> positions = {};
};

// Of positions first … T − 2 of one window.
SlowDistance slow_distance(core::Model& full, core::Model& model, std::span<const int32_t> window, int64_t first) {
  at::NoGradGuard no_gradient;
  const at::Tensor ids = at::tensor(std::vector<int64_t>(window.begin(), window.end())).unsqueeze(0);
  const at::Tensor a = full.forward(ids)[0].to(at::kDouble).contiguous();   // [T, V]
  const at::Tensor b = model.forward(ids)[0].to(at::kDouble).contiguous();  // [T, V]
  const int64_t V = a.size(1);
  SlowDistance slow;
  for (int64_t t = first; t < a.size(0) - 1; ++t) {
    const double *p = a.const_data_ptr<double>() + t * V, *q = b.const_data_ptr<double>() + t * V;
    double sum_p = 0, sum_q = 0;
    int64_t top_p = 0, top_q = 0;
    for (int64_t v = 0; v < V; ++v) {
      sum_p += std::exp(p[v]);
      sum_q += std::exp(q[v]);
      if (p[v] > p[top_p]) top_p = v;
      if (q[v] > q[top_q]) top_q = v;
    }
    double kl = 0;
    for (int64_t v = 0; v < V; ++v)
      kl += std::exp(p[v]) / sum_p * ((p[v] - std::log(sum_p)) - (q[v] - std::log(sum_q)));
    slow.kl += kl;
    slow.same += top_p == top_q;
    const int32_t came = window[t + 1];
    slow.positions.push_back(
        {kl, std::exp(p[top_p]) / sum_p, std::exp(q[came]) / sum_q - std::exp(p[came]) / sum_p, top_p == top_q});
  }
  return slow;
}

// Full precision measured as the baseline does it, then `model` against it.
Scores measured_against(Loaded& full, Loaded& model, const FinalLayers& layers, const core::Windows& windows,
                        const std::string& file, int64_t batch_tokens = 1024) {
  const FinalStates::Shape shape{windows.count, windows.scored_per_window(), full.model->shape().width, at::kFloat};
  {
    FinalStates keep(file, shape, FinalStates::Open::create);
    score(*full.model, full.source, windows, {.batch_tokens = batch_tokens, .keep = &keep});
  }
  const FinalStates states(file, shape, FinalStates::Open::read);
  const Reference reference{states, layers};
  return score(*model.model, model.source, windows, {.batch_tokens = batch_tokens, .reference = &reference});
}

struct Pair {
  Lab lab;
  Spec spec;
  Resources resources{""};
  const ModelFiles& files;
  Loaded full, model;
  FinalLayers layers;
  core::Windows windows;

  explicit Pair(const Strings& overrides = {})
      : spec(lab.points(overrides).front().spec),
        files(resources.model(spec.model.path)),
        full(spec, files),
        model(spec, files),
        layers(*full.model, weights_of(spec, files)),
        windows(windows_of(first_perplexity(spec), resources, files, full.model->shape())) {}

  Scores measured(int64_t batch_tokens = 1024) {
    return measured_against(full, model, layers, windows, lab.file("states"), batch_tokens);
  }
  void expect_the_slow_distance(const Scores& scores) {
    ASSERT_TRUE(scores.distance.has_value());
    for (int64_t n = 0; n < windows.count; ++n) {
      const SlowDistance slow = slow_distance(*full.model, *model.model, windows.window(n), windows.first);
      // logits below 32 in float32: an error below 3.2e-5 in each of the two, per position
      EXPECT_NEAR(scores.distance->window_kl[n], slow.kl, windows.scored_per_window() * 6.4e-5) << "window " << n;
      EXPECT_NEAR(scores.distance->window_top1[n], slow.same, 1) << "window " << n << ": more than one tie";
      EXPECT_GT(slow.kl, 0.1 * windows.scored_per_window() * 6.4e-5) << "too small to be told from rounding";
    }
  }
};

TEST(Distance, EqualsASlowReferenceUnderBothProtocols) {
  for (const char* protocol : {"gptq", "llama.cpp"}) {
    SCOPED_TRACE(protocol);
    at::manual_seed(5);
    Pair pair({std::string("measure.perplexity[0].protocol=") + protocol, "measure.perplexity[0].seq_len=37"});
    for (core::Slot* slot : pair.model.model->slots()) spoil(*slot, 0.3);
    pair.expect_the_slow_distance(pair.measured());
  }
}

// A model that knows its text, so that every bucket has positions; its copy is spoilt.
TEST(Distance, BucketsQuantilesAndChangesEqualASlowReference) {
  at::manual_seed(7);
  Pair pair({"measure.perplexity[0].corpus=tiny/test", "measure.perplexity[0].seq_len=64",
             "measure.perplexity[0].windows=8"});
  for (core::Slot* slot : pair.model.model->slots()) spoil(*slot, 0.2);
  const Distance found = pair.measured().distance.value();
  std::vector<SlowPosition> all;
  for (int64_t n = 0; n < pair.windows.count; ++n) {
    const SlowDistance slow =
        slow_distance(*pair.full.model, *pair.model.model, pair.windows.window(n), pair.windows.first);
    all.insert(all.end(), slow.positions.begin(), slow.positions.end());
  }
  const auto count = static_cast<double>(all.size());
  double mean = 0, squares = 0;
  std::vector<double> kl;
  for (const SlowPosition& one : all) {
    mean += one.change / count;
    squares += one.change * one.change / count;
    kl.push_back(one.kl);
  }
  EXPECT_NEAR(found.change_mean, mean, 1e-5);
  EXPECT_NEAR(found.change_rms, std::sqrt(squares), 1e-5);
  std::sort(kl.begin(), kl.end());
  const auto at = [&](double share) {
    const double place = share * (count - 1);
    const auto below = static_cast<size_t>(place);
    return kl[below] + (place - std::floor(place)) * (kl[std::min(below + 1, kl.size() - 1)] - kl[below]);
  };
  EXPECT_NEAR(found.median, at(0.5), 1e-3 * at(0.5) + 1e-6);
  EXPECT_NEAR(found.p90, at(0.9), 1e-3 * at(0.9));
  EXPECT_NEAR(found.p999, at(0.999), 1e-3 * at(0.999));
  EXPECT_EQ(found.not_finite, 0);
  ASSERT_EQ(found.buckets.size(), 5U);
  int64_t positions = 0;
  for (const Bucket& bucket : found.buckets) {
    double sum = 0, same = 0, inside = 0;
    for (const SlowPosition& one : all) {
      if (one.top < bucket.from || (one.top >= bucket.to && bucket.to < 1)) continue;
      sum += one.kl;
      same += one.same ? 1 : 0;
      ++inside;
    }
    ASSERT_GT(inside, 2) << bucket.from;
    EXPECT_NEAR(static_cast<double>(bucket.positions), inside, 1) << "more than one at the edge";
    if (static_cast<double>(bucket.positions) != inside) continue;
    EXPECT_NEAR(bucket.kl, sum / inside, 1e-3 * sum / inside);
    EXPECT_NEAR(bucket.agreement, same / inside, 1.5 / inside);
    positions += bucket.positions;
  }
  EXPECT_GT(positions, 0.9 * count);
}

// Of two models one of which has lost a logit to infinity at some positions.
TEST(Distance, PositionsThatAreNotFiniteAreCountedAndLeftOut) {
  Pair pair;
  const Distance before = pair.measured().distance.value();
  EXPECT_EQ(before.not_finite, 0);
  const FinalStates::Shape shape{pair.windows.count, pair.windows.scored_per_window(), pair.full.model->shape().width,
                                 at::kFloat};
  {
    FinalStates damaged(pair.lab.file("states"), shape, FinalStates::Open::create);
    const at::Tensor states = at::ones({shape.scored, shape.width});
    states[3].fill_(std::numeric_limits<float>::quiet_NaN());
    for (int64_t n = 0; n < shape.windows; ++n) damaged.write(n, states);
  }
  const FinalStates states(pair.lab.file("states"), shape, FinalStates::Open::read);
  const Reference reference{states, pair.layers};
  const Scores scores = score(*pair.model.model, pair.model.source, pair.windows, {.reference = &reference});
  EXPECT_EQ(scores.distance->not_finite, shape.windows);
  EXPECT_TRUE(std::isfinite(scores.distance->p999));
  for (const double kl : scores.distance->window_kl) EXPECT_TRUE(std::isfinite(kl));
}

TEST(Distance, OfLongWindowsIsTakenInChunksWithoutAGap) {
  at::manual_seed(6);
  Pair pair({"measure.perplexity[0].seq_len=640", "measure.perplexity[0].windows=1"});
  spoil(*pair.model.model->slots().at(3), 0.5);
  pair.expect_the_slow_distance(pair.measured());
}

TEST(Distance, EachModelHasItsOwnNormAndHead) {
  at::manual_seed(7);
  Pair pair;
  ASSERT_TRUE(pair.model.model->shape().tied);
  spoil(pair.model.model->head(), 0.3);  // the embedding, which the head was tied to, stays
  const_cast<at::Tensor&>(pair.model.model->norm().weight()).mul_(1.25);
  pair.expect_the_slow_distance(pair.measured());
}

// The layers are those of the loaded model even if the very same model is changed afterwards.
TEST(Distance, TheFullLayersOutliveAChangeOfTheirModel) {
  at::manual_seed(8);
  Pair pair;
  const at::Tensor hidden = at::randn({5, 128}), before = pair.layers.logits(hidden);
  spoil(pair.full.model->head(), 0.3);
  const_cast<at::Tensor&>(pair.full.model->norm().weight()).mul_(1.25);
  EXPECT_FALSE(pair.full.model->logits(hidden).equal(before));
  EXPECT_TRUE(pair.layers.logits(hidden).equal(before));
}

TEST(Distance, TheLossIsTheSameBitForBitWithAndWithoutIt) {
  Pair pair;
  const Scores with = pair.measured();
  const Scores without = score(*pair.model.model, pair.model.source, pair.windows);
  EXPECT_EQ(with.window_nll, without.window_nll);
  EXPECT_EQ(with.window_squares, without.window_squares);
  EXPECT_FALSE(without.distance.has_value());
}

void expect_nothing(const Scores& scores, const core::Windows& windows) {
  for (size_t n = 0; n < scores.distance->window_kl.size(); ++n) {
    EXPECT_LT(std::abs(scores.distance->window_kl[n]) / windows.scored_per_window(), 1e-6) << "window " << n;
    EXPECT_EQ(scores.distance->window_top1[n], windows.scored_per_window()) << "window " << n;
  }
  EXPECT_LT(scores.distance->max, 1e-6);
}

TEST(Distance, OfAModelFromItselfIsNothing) {
  for (const char* protocol : {"gptq", "llama.cpp"}) {
    Pair pair({std::string("measure.perplexity[0].protocol=") + protocol, "measure.perplexity[0].seq_len=250"});
    expect_nothing(pair.measured(), pair.windows);
    expect_nothing(pair.measured(/*batch_tokens=*/250), pair.windows);
  }
}

TEST(Distance, OfTrainedModelsFromThemselvesIsNothing) {
  for (const char* model : {"tiny-qwen3", "tiny-deepseek-moe"}) {
    for (const char* protocol : {"gptq", "llama.cpp"}) {
      SCOPED_TRACE(std::string(model) + " " + protocol);
      Pair pair({std::string("model.path=") + model, std::string("measure.perplexity[0].protocol=") + protocol,
                 "measure.perplexity[0].corpus=tiny/test", "measure.perplexity[0].seq_len=512",
                 "measure.perplexity[0].windows=8"});
      expect_nothing(pair.measured(), pair.windows);
    }
  }
}

TEST(Distance, InBfloat16ComesFromStatesOfThatDtype) {
  const Lab lab;
  const Json p = lab.row({"model.dtype=bfloat16", "quant.weight.bits=8"})["quantized"]["perplexity"][0];
  EXPECT_GT(p["kl_mean"].get<double>(), 0.0);
  EXPECT_LT(p["kl_mean"].get<double>(), 0.02);
  EXPECT_GT(p["top1_agreement"].get<double>(), 0.9);
}

// Fewer bits are further away.
TEST(Distance, GrowsAsBitsShrink) {
  const Lab lab;
  double last = 0, agreement = 1;
  for (const char* bits : {"8", "4", "3", "2"}) {
    const Json p = lab.row({std::string("quant.weight.bits=") + bits})["quantized"]["perplexity"][0];
    EXPECT_GT(p["kl_mean"].get<double>(), last) << bits;
    EXPECT_LE(p["top1_agreement"].get<double>(), agreement) << bits;
    last = p["kl_mean"];
    agreement = p["top1_agreement"];
  }
}

// ---- the file of states ----

TEST(FinalStates, AreReadByRowsAsTheyWereWritten) {
  const core::Scratch scratch;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const FinalStates::Shape shape{3, 5, 7, dtype};
    const at::Tensor all = at::randn({3, 5, 7}).to(dtype);
    FinalStates states(scratch.file("states"), shape, FinalStates::Open::create);
    for (const int64_t window : {2, 0, 1}) states.write(window, all[window]);
    EXPECT_EQ(std::filesystem::file_size(scratch.file("states")), all.numel() * all.element_size());
    const FinalStates again(scratch.file("states"), shape, FinalStates::Open::read);
    EXPECT_TRUE(again.read(1, 0, 5).equal(all[1]));
    EXPECT_TRUE(again.read(2, 3, 5).equal(all[2].slice(0, 3, 5)));
    EXPECT_EQ(again.read(0, 2, 2).numel(), 0);
  }
}

TEST(FinalStates, BadFilesAreNamed) {
  const core::Scratch scratch;
  const FinalStates::Shape shape{1, 2, 3, at::kFloat};
  EXPECT_EQ(core::message_of([&] { FinalStates(scratch.file("none"), shape, FinalStates::Open::read); }),
            scratch.file("none") + ": cannot be read: " + core::system_reason(ENOENT) + ". Remove its directory.");
  scratch.put("short", "1234");
  const FinalStates states(scratch.file("short"), shape, FinalStates::Open::read);
  EXPECT_EQ(core::message_of([&] { states.read(0, 0, 2); }),
            scratch.file("short") + ": cannot be read: " + core::system_reason(EIO) + ". Remove its directory.");
}

}  // namespace
}  // namespace experiments
