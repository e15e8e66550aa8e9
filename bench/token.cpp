// What a token costs a model with packed weights: the shortest and the median of many, for a prompt and for every token
// behind it. For profiling, and for comparing two builds on a busy machine: the shortest says most there.
//   ninja -C build bench_token && build/bin/bench_token <checkpoint that run_experiment has kept> [context [generate
//   [repetitions]]]
// OMP_NUM_THREADS sets the threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/context.h"
#include "core/random.h"
#include "experiments/inputs/resources.h"
#include "experiments/run/runtime.h"
#include "export/checkpoint.h"
#include "models/registry.h"

namespace {

using Clock = std::chrono::steady_clock;

void say(const char* what, int64_t tokens, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double best = seconds.front(), median = seconds[seconds.size() / 2];
  const auto n = static_cast<double>(tokens);
  fmt::print("{}: best {:.3f} ms ({:.0f} tokens/s), median {:.3f} ms ({:.0f} tokens/s)\n", what, 1e3 * best, n / best,
             1e3 * median, n / median);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fmt::print("bench_token: name a checkpoint that run_experiment has kept.\n"), 2;
  const int64_t context = argc > 2 ? std::atoll(argv[2]) : 64, generate = argc > 3 ? std::atoll(argv[3]) : 64;
  const int64_t repetitions = argc > 4 ? std::atoll(argv[4]) : 10;
  experiments::Spec spec;
  spec.model.path = argv[1];
  spec.model.dtype = "float32";
  spec.runtime.linears = "packed_int8";
  experiments::Resources resources("");
  const experiments::ModelFiles& files = resources.model(spec.model.path);
  const auto model = models::build(files.config);
  const core::Weights weights = experiments::weights_of(spec, files);
  experiments::PackedSource source(exports::open_source(*model, files.path, weights), spec.runtime);
  exports::load_embedding_and_head(*model, files.path, weights);
  source.pack(model->head());
  core::load_blocks(*model, source);

  const c10::InferenceMode inference;
  core::Random random(1, "", "token");
  at::Tensor prompt = at::empty({1, context}, at::kLong);
  for (int64_t i = 0; i < context; ++i) prompt.mutable_data_ptr<int64_t>()[i] = random.below(model->shape().vocabulary);
  std::vector<double> read, written;
  for (int64_t repetition = 0; repetition < repetitions; ++repetition) {
    core::Context run(*model, context + generate);
    auto start = Clock::now();
    const auto lap = [&start] {
      const auto before = std::exchange(start, Clock::now());
      return std::chrono::duration<double>(start - before).count();
    };
    at::Tensor next = core::likeliest(run.read(prompt));
    read.push_back(lap());
    for (int64_t i = 0; i < generate; ++i) {
      next = core::likeliest(run.read(next));
      written.push_back(lap());
    }
  }
  fmt::print("{} threads\n", at::get_num_threads());
  say("prompt", context, read);
  say("token", 1, written);
}
