// Hidden states behind every block beside those of full precision: figures by hand on a whole run's checkpoint.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

const Strings kTrajectory{"measure.trajectory={corpus: tiny/test, seq_len: 24, windows: 3}"};

std::shared_ptr<core::Model> loaded(const std::string& path) {
  Spec spec;
  spec.device = "cpu";
  const ModelFiles files = open_model_files(path);
  auto model = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  const auto source = exports::open_source(*model, path, weights);
  exports::load_embedding_and_head(*model, path, weights);
  core::load_blocks(*model, *source);
  return model;
}

TEST(Trajectory, EqualsASlowReference) {
  const Lab lab(shallow_model());
  const Json row = lab.row(kTrajectory), found = row["quantized"]["trajectory"];
  const auto full = loaded(shallow_model()), quantized = loaded(lab.directory(row) + "/checkpoint");
  Resources resources("");
  PerplexityConfig config;
  config.corpus = "tiny/test";
  config.seq_len = 24;
  config.windows = 3;
  const core::Windows windows = config.windows_of(*resources.texts(resources.model(shallow_model()), full->shape()));
  const at::NoGradGuard no_gradient;
  double error = 0, cosine = 0, first = 0;
  for (int64_t n = 0; n < 3; ++n) {
    const auto ids = windows.window(n);
    const at::Tensor row_ids = at::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
    at::Tensor h = quantized->embed(row_ids), f = full->embed(row_ids);
    for (int64_t i = 0; i < 2; ++i) {  // behind the second of three blocks
      h = quantized->block(i).forward(h, {.step = i});
      f = full->block(i).forward(f, {.step = i});
    }
    for (int64_t t = 0; t < 24; ++t) {
      const at::Tensor a = h[0][t].to(at::kDouble), b = f[0][t].to(at::kDouble);
      const double e = ((a - b).norm() / b.norm()).item<double>();
      if (t == 0) first += e / 3;
      if (t > 0) error += e / 69;
      if (t > 0) cosine += (a.dot(b) / (a.norm() * b.norm())).item<double>() / 69;
    }
  }
  ASSERT_EQ(found["behind"].size(), 3U);
  EXPECT_NEAR(found["behind"][1]["relative_error"].get<double>(), error, 1e-4 * error);
  EXPECT_NEAR(found["behind"][1]["cosine"].get<double>(), cosine, 1e-5);
  EXPECT_NEAR(found["behind"][1]["relative_error_first"].get<double>(), first, 1e-4 * first);
  EXPECT_GT(error, 0.01);
  EXPECT_TRUE(row["baseline"]["trajectory"].contains("steps"));
  EXPECT_FALSE(row["baseline"]["trajectory"].contains("last"));
}

TEST(Trajectory, TellsThePassesOfARepeatedBlockApart) {
  const Lab lab(shallow_model());
  Strings all = kTrajectory;
  all.push_back("replication={strategy: depth, depth: {span: [1, 1], gate_init: 0.5}}");
  const Json row = lab.row(all), behind = row["quantized"]["trajectory"]["behind"];
  ASSERT_EQ(behind.size(), 4U);
  EXPECT_EQ(behind[1]["block"], 1);
  EXPECT_EQ(behind[1]["pass"], 0);
  EXPECT_EQ(behind[2]["block"], 1);
  EXPECT_EQ(behind[2]["pass"], 1);
  const std::string csv = core::slurp(lab.directory(row) + "/trajectory.csv");
  EXPECT_THAT(csv, ::testing::HasSubstr("quantized,2,1,1,"));
}

TEST(Trajectory, MistakesAreToldBeforeAnythingIsComputed) {
  const Lab lab;
  const auto mistake = [&](const std::string& given) {
    return core::message_of([&] { lab.run({"measure.trajectory=" + given}); });
  };
  EXPECT_THAT(mistake("{}"), ::testing::HasSubstr("corpus is missing"));
  EXPECT_THAT(mistake("{corpus: tiny/test, seq_len: 100000}"), ::testing::HasSubstr("longer than the context"));
}

}  // namespace
}  // namespace experiments
