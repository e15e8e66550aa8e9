// One optimizer step of training scales and zero points of one block (width 2048, ffn 6144, 16 heads, 2 bits in groups
// of 64) on 2,048 tokens: forward, backward, AdamW. Seconds, and the peak of resident memory above the level before the
// step. Beside it, in plain PyTorch: train_step.py, which starts this program.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <c10/core/GradMode.h>
#include <torch/optim/adamw.h>
#include <unistd.h>

#include <fstream>

#include "bench/norms.h"
#include "core/io/hf_config.h"
#include "core/machine.h"
#include "models/registry.h"
#include "quant/grids/make_format.h"
#include "quant/qat/training.h"

namespace {

constexpr int64_t kWidth = 2048, kTokens = 2048;

constexpr const char* kModel = R"({"model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144,
  "num_hidden_layers": 1, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128, "vocab_size": 64,
  "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": true, "attention_bias": false})";

int64_t resident_bytes() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

struct Case {
  std::shared_ptr<core::Model> model = models::build(core::JsonObject::parse(kModel, "bench"));
  core::Block& block = model->block(0);
  std::unique_ptr<quant::Training> training;
  std::unique_ptr<torch::optim::AdamW> adam;
  at::Tensor x = at::randn({1, kTokens, kWidth}), target = at::randn({1, kTokens, kWidth});

  Case() {
    quant::WeightConfig config;
    config.bits = 2;
    config.zero_point = "float";
    for (core::Slot* slot : block.slots()) {
      const auto format = quant::make_format(config, slot->path(), slot->in_features());
      const at::Tensor w = at::randn({slot->out_features(), slot->in_features()}) / 45;
      slot->put(std::make_shared<quant::QuantizedLinear>(format, format->encode(w, format->fit(w, {})), at::Tensor(), 0,
                                                         at::kFloat));
    }
    bench::load_norms(block, kWidth, 128);
    const std::set<core::Kind> kinds{core::Kind::scale, core::Kind::zero_point};
    training =
        std::make_unique<quant::Training>(std::vector<torch::nn::Module*>{&block}, kinds, quant::FormatFactory());
    std::vector<at::Tensor> leaves;
    for (const quant::Leaf& leaf : training->leaves()) leaves.push_back(leaf.tensor);
    adam = std::make_unique<torch::optim::AdamW>(leaves, torch::optim::AdamWOptions(1e-4).weight_decay(0));
    x.set_requires_grad(true);  // as the outputs of a block before it
  }

  void step(bool recompute) {
    adam->zero_grad();
    x.mutable_grad() = at::Tensor();
    if (recompute) {  // as qat.recompute does: this is the forward pass
      const at::NoGradGuard no_gradient;
      benchmark::DoNotOptimize(block.forward(x, {}));
    }
    const at::Tensor loss = at::square(block.forward(x, {}) - target).mean();
    loss.backward();
    adam->step();
  }
};

void train_step(benchmark::State& state) {
  core::return_freed_tensors();
  Case c;
  const c10::AutoGradMode gradients(true);
  c.step(state.range(0) != 0);  // the moments of AdamW are there from now on
  int64_t peak = 0;
  for (auto _ : state) {
    state.PauseTiming();
    core::reset_peak_memory();
    const int64_t before = resident_bytes();
    state.ResumeTiming();
    c.step(state.range(0) != 0);
    state.PauseTiming();
    peak = std::max(peak, core::peak_memory_bytes() - before);
    state.ResumeTiming();
  }
  state.counters["peak_MB"] = static_cast<double>(peak) / 1e6;
}
BENCHMARK(train_step)
    ->Arg(0)
    ->Arg(1)
    ->ArgName("recompute")
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Iterations(3);

}  // namespace
