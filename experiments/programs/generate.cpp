// generate: prints text from any checkpoint, quantized or not. The text goes to standard output as it is made, speed to
// standard error. Exit codes: 0 done, 1 our bug, 2 the user's mistake, 130 and 143 interrupted.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "core/context.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/machine.h"
#include "core/sampling.h"
#include "core/text/text_stream.h"
#include "experiments/inputs/prefix.h"
#include "experiments/inputs/resources.h"
#include "experiments/programs/program.h"
#include "experiments/run/runtime.h"
#include "models/registry.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  experiments::Spec spec;  // of it: device, dtype, threads, seed, runtime
  std::string prompt;
  int64_t tokens = 128;
  core::Sampling sampling{.temperature = 0.8, .top_p = 0.95};
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double per_second(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

std::vector<int32_t> prompt_ids(const Options& options, const experiments::ModelFiles& files, core::Shape shape) {
  const core::Tokenizer& tokenizer = *files.tokenizer;
  shape.context -= experiments::prefix_length(options.spec, files, shape);
  std::vector<int32_t> ids = tokenizer.encode(options.prompt);
  if (tokenizer.adds_bos() && tokenizer.bos_id()) ids.insert(ids.begin(), *tokenizer.bos_id());
  core::require(!ids.empty(), "--prompt: the prompt is empty. Give the text that the model is to continue.");
  core::require_in_embedding("--prompt", ids, shape.vocabulary);
  core::require_context(shape, static_cast<int64_t>(ids.size()) + options.tokens, "--prompt and --tokens");
  return ids;
}

// The model of a directory, with all its weights in memory, quantized ones as `runtime` says.
struct Loaded {
  std::shared_ptr<core::Model> model;
  std::unique_ptr<experiments::PackedSource> source;

  Loaded(const Options& options, const experiments::ModelFiles& files, std::shared_ptr<core::Model> skeleton)
      : model(std::move(skeleton)) {
    const core::Weights weights = experiments::weights_of(options.spec, files);
    core::require(weights.bytes_in_memory() < core::memory_bytes(),
                  "{}: its weights fill {:.1f} GB, and the memory has {:.1f}. Use a smaller model, or quantize it.",
                  files.path, 1e-9 * static_cast<double>(weights.bytes_in_memory()),
                  1e-9 * static_cast<double>(core::memory_bytes()));
    source = std::make_unique<experiments::PackedSource>(exports::open_source(*model, files.path, weights),
                                                         options.spec.runtime);
    exports::load_embedding_and_head(*model, files.path, weights);
    source->pack(model->head());
    core::load_blocks(*model, *source);
  }
  // ", kernel avx512", of packed linears; "" where there are none.
  std::string kernel() const {
    const experiments::Json report = source->report();
    if (!report.contains("kernel") || report["kernel"].is_null()) return "";
    return ", kernel " + report["kernel"].get<std::string>();
  }
};

// Logits [1, V] of the ids that the tokenizer knows; the embedding may have more rows.
int64_t choose(const at::Tensor& logits, int64_t known, const core::Sampling& sampling, core::Random& random) {
  const at::Tensor plain = logits.reshape({-1}).narrow(0, 0, std::min(known, logits.size(1))).to(at::kFloat).cpu();
  return core::sample({plain.const_data_ptr<float>(), static_cast<size_t>(plain.numel())}, sampling, random);
}

void print(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

void generate(const Options& options) {
  experiments::Resources resources("");
  const experiments::ModelFiles& files = resources.model(options.spec.model.path);
  const core::Tokenizer& tokenizer = *files.tokenizer;
  const auto skeleton = models::build(files.config);
  std::vector<int32_t> ids = prompt_ids(options, files, skeleton->shape());
  const Loaded loaded(options, files, skeleton);

  const c10::InferenceMode inference;
  core::Random random(static_cast<uint64_t>(options.spec.seed), "", "generate");
  core::Context context(*loaded.model, static_cast<int64_t>(ids.size()) + options.tokens);
  core::TextStream text(tokenizer, ids);
  print(options.prompt);
  const auto start = Clock::now();
  at::Tensor logits = context.read(at::tensor(ids, at::kLong).unsqueeze(0));  // [1, V]
  const double read = seconds_since(start);
  int64_t made = 0;
  while (made < options.tokens) {
    core::honour_interrupt();
    const int64_t next = choose(logits, tokenizer.vocabulary_size(), options.sampling, random);
    if (tokenizer.ends_text(next)) break;
    print(text.push(static_cast<int32_t>(next)));
    if (++made < options.tokens) logits = context.read(at::full({1, 1}, next, at::kLong));
  }
  const double wrote = seconds_since(start) - read;
  print(text.finish() + "\n");
  fmt::print(stderr, "prompt: {} tokens, {:.1f} tokens/s; text: {} tokens, {:.1f} tokens/s; {} threads{}\n", ids.size(),
             per_second(static_cast<int64_t>(ids.size()), read), made, per_second(made, wrote), at::get_num_threads(),
             loaded.kernel());
}

int parse_and_run(int argc, char** argv) {
  Options options;
  experiments::Spec& spec = options.spec;
  spec.runtime.linears = "packed";
  bool no_build = false;
  CLI::App app{"Prints text from a model: a Hugging Face directory or a checkpoint that run_experiment has written."};
  app.add_option("MODEL", spec.model.path,
                 "directory or GGUF file, or its name under data/, $REFRAIN_DATA or among fetched models")
      ->required();
  app.add_option("--prompt", options.prompt, "the text that is continued")->required();
  app.add_option("--tokens", options.tokens, "how many at most; a model may end its text before")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--temperature", options.sampling.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p, "choose among the likeliest tokens of so much probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  app.add_option("--seed", spec.seed, "equal seeds, equal text")
      ->check(CLI::Range(int64_t{0}, int64_t{4294967295}))
      ->capture_default_str();
  app.add_option("--threads", spec.threads, "0: physical cores that this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--device", spec.device, "where to compute")
      ->check(CLI::IsMember({"auto", "cpu", "mps", "cuda"}))
      ->capture_default_str();
  app.add_option("--dtype", spec.model.dtype, "of the computation; auto: float32")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->capture_default_str();
  app.add_option("--linears", spec.runtime.linears,
                 "how quantized ones run; dense: decoded for every product; packed_int8: inputs rounded to int8")
      ->check(CLI::IsMember({"dense", "packed", "packed_int8"}))
      ->capture_default_str();
  app.add_flag("--no-build", no_build, "run what is built; read by the launcher");
  if (!experiments::parsed(app, argc, argv)) return 0;
  at::set_num_threads(static_cast<int>(spec.threads > 0 ? spec.threads : core::usable_threads()));
  const auto log = spdlog::stderr_logger_mt("refrain");  // standard output is the text's
  log->set_pattern("%v");
  log->set_level(spdlog::level::warn);
  spdlog::set_default_logger(log);
  generate(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return experiments::guarded([&] { return parse_and_run(argc, argv); }, "interrupted");
}
