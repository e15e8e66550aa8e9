// What running a block of packed codes several times costs a generated token, when the block is larger than the
// last-level cache and when it fits: once, twice in a row (depth, keys and values of the first pass), and two and four
// replicas with scales of their own side by side (parallel: linear by linear, and, for comparison, one replica after
// the other), with float32 and with int8 inputs. The cache holds nothing of the block when a token begins, as behind
// the other blocks of a model. A table: milliseconds (median of 9), their ratio to one pass, the rate at which
// the block's codes and parameters, counted once, went by, and its share of the read bandwidth measured by the same
// threads.
//
//   bench_block [CACHE [BITS]]      e.g. bench_block 32MB 2; the cache that the system tells, 2 bits by default
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "bench/norms.h"
#include "core/bandwidth.h"
#include "core/cpu_load.h"
#include "core/error.h"
#include "core/io/hf_config.h"
#include "core/io/size.h"
#include "core/machine.h"
#include "models/registry.h"
#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"

namespace {

constexpr int64_t kHead = 128, kRounds = 9;
constexpr int64_t kContext = quant::kernels::kMostInputs;  // so that these, too, are multiplied as codes

// A Qwen3 block of width D, ffn 3 D, four query heads per key head: 11.5 D² weights.
std::shared_ptr<core::Model> skeleton(int64_t width) {
  return models::build(core::JsonObject::parse(
      fmt::format(R"({{"model_type": "qwen3", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": 1,
        "num_attention_heads": {}, "num_key_value_heads": {}, "head_dim": 128, "vocab_size": 64,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "attention_bias": false}})",
                  width, 3 * width, width / kHead, width / kHead / 4),
      "bench"));
}

// Random codes, and scales that a small part of such a weight asks for: the weight itself never exists.
std::shared_ptr<quant::QuantizedLinear> linear_of(const core::Slot& slot, int64_t bits) {
  quant::WeightConfig config;
  config.bits = bits;
  config.group_size = 64;
  config.symmetry = "midrise";
  const int64_t O = slot.out_features(), I = slot.in_features();
  const auto format = quant::make_format(config, slot.path(), I);
  quant::Parameters parameters = format->fit(at::randn({64, I}) / std::sqrt(static_cast<double>(I)), {});
  for (quant::Parameter& p : parameters) {
    if (p.tensor.dim() == 2) p.tensor = p.tensor.repeat({O / 64, 1});
  }
  const at::Tensor packed = at::empty({O, I * bits / 8}, at::kByte).random_();
  return std::make_shared<quant::QuantizedLinear>(format, core::Codes::from_packed(packed, I, bits),
                                                  std::move(parameters), at::Tensor(), 0, at::kFloat);
}

// Replicas for a measurement: gates, and, side by side, scales of their own. in_turn: and norms, which keep them from
// running linear by linear.
void make_replicas(core::Model& model, const core::Plan& plan, const quant::Execution& execution, bool in_turn) {
  model.follow(core::default_plan(1));  // drops those of before
  model.follow(plan);
  const std::vector<core::Slot*> slots = model.block(0).slots();
  for (core::Block* replica : model.replicas(0)) {
    replica->attention_gate().put(0.5);
    replica->mlp_gate().put(0.5);
    if (plan[0].parallel == 1) continue;
    const std::vector<core::Slot*> own = replica->slots();
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto& linear = dynamic_cast<const quant::QuantizedLinear&>(slots[i]->linear());
      quant::Parameters parameters = linear.parameters();
      for (quant::Parameter& p : parameters) p.tensor = p.tensor.clone();
      const auto made = linear.with(linear.shared_format(), std::move(parameters));
      made->run_packed(execution);
      own[i]->put(made);
    }
    for (const auto& module : replica->modules(/*include_self=*/false)) {
      auto* norm = dynamic_cast<core::RmsNorm*>(module.get());
      if (in_turn && norm != nullptr) norm->own();
    }
  }
}

// Seconds of one token behind kContext others, the caches emptied before it.
double token_seconds(core::Model& model, int64_t width) {
  core::KvCache cache(static_cast<int64_t>(model.plan().size()), kContext + 1);
  const auto run = [&](at::Tensor x, int64_t position) {
    std::vector<core::KeyValues> kept(model.plan().size());
    for (size_t s = 0; s < model.plan().size(); ++s) {
      const core::Step& step = model.plan()[s];
      const core::Pass pass{.step = static_cast<int64_t>(s),
                            .position = position,
                            .cache = &cache,
                            .given = step.kv == core::Step::kOwn ? nullptr : &kept[step.kv],
                            .kept = &kept[s]};
      x = model.run(step, x, pass);
    }
    return x;
  };
  run(at::randn({1, kContext, width}), 0);
  const at::Tensor x = at::randn({1, 1, width});
  core::read_bandwidth(core::uncached_bytes(), /*passes=*/1);
  const auto start = std::chrono::steady_clock::now();
  run(x, kContext);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void measure(const std::string& name, int64_t bytes, int64_t bits, double bandwidth) {
  const double per_width_squared = 11.5 * (static_cast<double>(bits) + 16.0 / 64) / 8;
  const int64_t unit = 4 * kHead;  // of the width: whole key heads
  const auto units = static_cast<int64_t>(std::sqrt(static_cast<double>(bytes) / per_width_squared)) / unit;
  const int64_t width = std::max<int64_t>(1, units) * unit;
  const auto model = skeleton(width);
  std::vector<std::shared_ptr<quant::QuantizedLinear>> linears;
  for (core::Slot* slot : model->block(0).slots()) slot->put(linears.emplace_back(linear_of(*slot, bits)));
  bench::load_norms(model->block(0), width, kHead);
  struct Runs {
    const char* what;
    core::Plan plan;
    bool in_turn = false;
  };
  const std::vector<Runs> all{{"once", {{.block = 0}}},
                              {"depth 2", {{.block = 0}, {.block = 0, .replica = 1, .kv = 0}}},
                              {"parallel 2", {{.block = 0, .parallel = 2}}},
                              {"parallel 2, one after the other", {{.block = 0, .parallel = 2}}, /*in_turn=*/true},
                              {"parallel 4", {{.block = 0, .parallel = 4}}}};
  const int64_t stored = core::bill_of_block(*model, 0).bytes_read;
  for (const auto& [inputs, precision] :
       {std::pair{"float32", quant::kernels::Precision::real}, std::pair{"int8", quant::kernels::Precision::integer}}) {
    const quant::Execution execution{.precision = precision};
    for (const auto& linear : linears) {
      const std::string reason = linear->run_packed(execution);
      core::require(reason.empty(), "bench_block: {}", reason);
    }
    double single = 0;
    for (const auto& [what, plan, in_turn] : all) {
      make_replicas(*model, plan, execution, in_turn);
      token_seconds(*model, width);  // warms up
      std::vector<double> seconds;
      for (int64_t i = 0; i < kRounds; ++i) seconds.push_back(token_seconds(*model, width));
      std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
      const double median = seconds[kRounds / 2], rate = static_cast<double>(stored) / median;
      if (single == 0) single = median;
      fmt::print("| {} | {:.1f} | {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.1f} % |\n", name,
                 1e-6 * static_cast<double>(stored), inputs, what, 1e3 * median, median / single, 1e-9 * rate,
                 100 * rate / bandwidth);
      std::fflush(stdout);
    }
  }
}

void run(int argc, char** argv) {
  const c10::InferenceMode inference;
  at::set_num_threads(static_cast<int>(core::usable_threads()));
  const int64_t cache = argc > 1 ? core::parse_size(argv[1], "CACHE") : core::last_level_cache_bytes();
  const int64_t bits = argc > 2 ? std::stoll(argv[2]) : 2;
  core::require(cache > 0, "the system does not tell the size of its last-level cache. Give it: bench_block 24MB");
  const core::CpuLoad load;
  const double bandwidth = core::read_bandwidth(core::uncached_bytes());
  fmt::print("{}, {} threads, cache {:.1f} MB, read bandwidth {:.1f} GB/s, {} bits in groups of 64\n\n",
             core::cpu_name(), at::get_num_threads(), 1e-6 * static_cast<double>(cache), 1e-9 * bandwidth, bits);
  fmt::print(
      "| block | MB | inputs | runs | ms/token | ratio | GB/s, block counted once | of bandwidth |\n"
      "|---|---|---|---|---|---|---|---|\n");
  measure("1/4 of the cache", cache / 4, bits, bandwidth);
  if (8 * cache < core::memory_bytes() / 4) {
    measure("8 × the cache", 8 * cache, bits, bandwidth);
  } else {
    fmt::print("8 × the cache is more than a quarter of the memory: not measured\n");
  }
  if (const auto others = load.others()) fmt::print("\nother processes kept {:.1f} cores busy\n", *others);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
  } catch (const core::UserError& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
