// How far the hidden states behind every block are from those of full precision: where the damage is done, and whether
// it grows. The first position is told apart: its states are often far larger than all others (an attention sink).
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/batches.h"
#include "core/error.h"
#include "core/io/csv.h"
#include "core/progress.h"
#include "core/text/windows.h"
#include "experiments/measure/final_states.h"
#include "experiments/measure/measures.h"

namespace experiments {

namespace {

struct TrajectoryConfig : Measure {
  std::string corpus;
  int64_t seq_len = 256;
  int64_t windows = 4;

  void keys(core::Keys& k) override {
    k.key("corpus", corpus, "registered name of a text (--list corpora), or a path to one");
    k.key("seq_len", seq_len, "tokens of a window", {2, 1 << 20});
    k.key("windows", windows, "the first ones; full precision keeps the states behind every block on disk",
          {1, 1 << 20});
  }
  void check() const override {
    core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/test.", where(""));
  }

  int version() const override { return 1; }
  Prepared prepare(Texts& texts) const override;
  std::vector<Column> columns() const override {
    return {{.heading = "error behind the last block", .path = "last/relative_error", .optional = true}};
  }
  ItemFile items() const override {
    return {.name = "trajectory.csv",
            .columns = {"step", "block", "pass", "relative_error", "cosine", "relative_error_first", "cosine_first"},
            .count = "steps",
            .tokens = "tokens",
            .quantities = {}};
  }
};

constexpr const char* kStates = "trajectory";  // of full precision, [L · N, T, D]

// Mean over positions of ‖h − f‖ / ‖f‖ and of the cosine between h and f.
struct Deviation {
  double error = 0, cosine = 0;
  int64_t positions = 0;

  void add(const Deviation& other) {
    error += other.error;
    cosine += other.cosine;
    positions += other.positions;
  }
  double mean(double sum) const { return positions > 0 ? sum / static_cast<double>(positions) : 0.0; }
};

// The sums over the rows of h and f, [t, D] on the CPU.
Deviation deviation(const at::Tensor& h, const at::Tensor& f) {
  const at::Tensor a = h.to(at::kFloat).contiguous(), b = f.to(at::kFloat).contiguous();
  const int64_t width = a.size(1);
  Deviation all{.positions = a.size(0)};
  for (int64_t t = 0; t < all.positions; ++t) {
    const float *x = a.const_data_ptr<float>() + t * width, *y = b.const_data_ptr<float>() + t * width;
    double xx = 0, yy = 0, xy = 0, squares = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double u = x[i], v = y[i];
      xx += u * u;
      yy += v * v;
      xy += u * v;
      squares += (u - v) * (u - v);
    }
    all.error += std::sqrt(squares / yy);
    all.cosine += xy / std::sqrt(xx * yy);
  }
  return all;
}

struct BehindStep {
  Deviation later, first;  // all positions but the first of a window; those
};

Json to_json(const BehindStep& all) {
  return {{"relative_error", all.later.mean(all.later.error)},
          {"cosine", all.later.mean(all.later.cosine)},
          {"relative_error_first", all.first.mean(all.first.error)},
          {"cosine_first", all.first.mean(all.first.cosine)}};
}

// Runs the model over the windows; `look` sees the states [T, D] of every window behind every step.
void run(const core::Windows& windows, const Subject& subject, const std::string& what,
         const std::function<void(int64_t step, int64_t window, const at::Tensor& states)>& look) {
  const c10::InferenceMode inference;
  core::HiddenStore hidden(windows.count);
  for (int64_t n = 0; n < windows.count; ++n) {
    const auto ids = windows.window(n);
    const at::Tensor row = at::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
    hidden.put(n, subject.model.embed(row.to(subject.model.embedding().device())));
  }
  core::Progress bar(what, subject.quiet);
  core::walk(subject.model, subject.source, {}, {.quantized = &hidden}, [&](int64_t done, int64_t total) {
    for (int64_t n = 0; n < windows.count; ++n) look(done - 1, n, hidden.get(n)[0]);
    bar.update(done, total);
  });
}

Found measured(const core::Windows& windows, const Subject& subject) {
  const core::Plan& plan = subject.model.plan();
  const auto steps = static_cast<int64_t>(plan.size());
  Found found{.values = {{"corpus", windows.corpus},
                         {"seq_len", windows.seq_len},
                         {"windows", windows.count},
                         {"tokens", windows.count * windows.seq_len},
                         {"token_hash", windows.token_hash},
                         {"steps", 0}}};
  const FinalStates::Shape shape{subject.model.shape().layers * windows.count, windows.seq_len,
                                 subject.model.shape().width, subject.dtype};
  if (subject.keep) {  // full precision runs every block once, in order
    FinalStates kept(subject.keep(kStates), shape, FinalStates::Open::create);
    run(windows, subject, "hidden states of full precision",
        [&](int64_t step, int64_t n, const at::Tensor& states) { kept.write(step * windows.count + n, states); });
  }
  if (subject.full == nullptr) return found;
  const FinalStates full(subject.full->file(kStates), shape, FinalStates::Open::read);
  std::vector<BehindStep> all(plan.size());
  run(windows, subject, "hidden states", [&](int64_t step, int64_t n, const at::Tensor& states) {
    const at::Tensor f = full.read(plan[step].block * windows.count + n, 0, windows.seq_len), h = states.cpu();
    all[step].first.add(deviation(h.narrow(0, 0, 1), f.narrow(0, 0, 1)));
    all[step].later.add(deviation(h.slice(0, 1), f.slice(0, 1)));
  });
  found.values["steps"] = steps;
  found.values["behind"] = Json::array();
  for (int64_t step = 0; step < steps; ++step) {
    Json one = to_json(all[step]);
    std::vector<std::string> row{core::csv_cell(step), core::csv_cell(plan[step].block),
                                 core::csv_cell(plan[step].replica)};
    for (const char* figure : {"relative_error", "cosine", "relative_error_first", "cosine_first"})
      row.push_back(core::csv_cell(one[figure].get<double>()));
    found.items.push_back(std::move(row));
    one["block"] = plan[step].block;
    one["pass"] = plan[step].replica;
    found.values["behind"].push_back(std::move(one));
  }
  found.values["last"] = to_json(all.back());
  return found;
}

Prepared TrajectoryConfig::prepare(Texts& texts) const {
  const core::Shape& shape = texts.shape();
  core::require(seq_len <= shape.context, "{} is {}, longer than the context of {} ({} tokens). Lower it.",
                where("seq_len"), seq_len, texts.model_directory(), shape.context);
  const core::Corpus text = core::find_corpus(corpus);
  const auto made = std::make_shared<const core::Windows>(
      core::make_windows(text, texts.tokens(text), texts.tokenizer(),
                         {.seq_len = seq_len, .windows = windows, .embedding_rows = shape.vocabulary}));
  return {made->token_hash, [made](const Subject& subject) { return measured(*made, subject); }};
}

}  // namespace

MeasureKind make_trajectory() {
  return {.help = "hidden states behind every block beside those of full precision; nothing unless given",
          .make = [] { return TrajectoryConfig{}; }};
}

}  // namespace experiments
