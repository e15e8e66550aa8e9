#include "experiments/measure/continuations.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/batches.h"
#include "core/error.h"
#include "core/nn/cross_entropy.h"
#include "experiments/measure/score.h"

namespace experiments {

namespace {

// Contexts and continuations one after the other in one row of tokens. The last token of a continuation is predicted
// and not read.
struct Packed {
  std::vector<int64_t> ids;
  core::Spans spans;
  std::vector<int64_t> positions;  // whose logits are wanted
  std::vector<int64_t> targets;    // the token that came there
  std::vector<int64_t> lengths;    // of the continuations: they follow each other in positions and targets

  void read(const std::vector<int32_t>& tokens, int64_t count, int64_t behind) {
    if (count == 0) return;
    ids.insert(ids.end(), tokens.begin(), tokens.begin() + count);
    spans.push_back({.length = count, .behind = behind});
  }
  // first: of the continuation's own tokens in the row; before: the position that predicts its first token.
  void predict(const std::vector<int32_t>& continuation, int64_t before, int64_t first) {
    for (size_t t = 0; t < continuation.size(); ++t) {
      positions.push_back(t == 0 ? before : first + static_cast<int64_t>(t) - 1);
      targets.push_back(continuation[t]);
    }
    lengths.push_back(static_cast<int64_t>(continuation.size()));
  }
  void add(const Continued& text) {
    const auto text_span = static_cast<int64_t>(spans.size());
    const bool alone = text.continuations.size() == 1;
    read(text.context, static_cast<int64_t>(text.context.size()), core::Span::kText);
    const auto last = static_cast<int64_t>(ids.size()) - 1;
    for (const std::vector<int32_t>& continuation : text.continuations) {
      predict(continuation, last, static_cast<int64_t>(ids.size()));
      const auto count = static_cast<int64_t>(continuation.size()) - 1;
      if (alone) {  // nothing shares the context: one text
        ids.insert(ids.end(), continuation.begin(), continuation.begin() + count);
        spans.back().length += count;
      } else {
        read(continuation, count, text_span);
      }
    }
  }
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

// Rows of about batch_tokens. Those with the longest texts come first (core/batches.h wants tables to be made there).
struct Rows {
  std::vector<Packed> rows;
  std::vector<std::vector<size_t>> texts;  // of each row
};

Rows packed(const std::vector<Continued>& texts, int64_t batch_tokens) {
  std::vector<size_t> order(texts.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return texts[a].tokens() > texts[b].tokens(); });
  Rows all;
  for (const size_t i : order) {
    if (all.rows.empty() || all.rows.back().tokens() + texts[i].tokens() > batch_tokens) {
      all.rows.emplace_back();
      all.texts.emplace_back();
    }
    all.rows.back().add(texts[i]);
    all.texts.back().push_back(i);
  }
  return all;
}

// Of the continuations of a row. hidden: [T, D] behind the last block.
std::vector<Likelihood> scored(core::Model& model, const Packed& row, const at::Tensor& hidden) {
  const auto wanted = static_cast<int64_t>(row.positions.size());
  const int64_t chunk = positions_at_a_time(model.shape());
  const at::Tensor positions = at::tensor(row.positions, at::kLong).to(hidden.device());
  const at::Tensor targets = at::tensor(row.targets, at::kLong).to(hidden.device());
  const at::Tensor losses = at::empty({wanted}, at::kFloat), hits = at::empty({wanted}, at::kBool);
  for (int64_t first = 0; first < wanted; first += chunk) {
    const int64_t count = std::min(chunk, wanted - first);
    const at::Tensor logits = model.logits(hidden.index_select(0, positions.narrow(0, first, count)));  // [t, V]
    const at::Tensor target = targets.narrow(0, first, count);
    losses.narrow(0, first, count).copy_(core::cross_entropy(logits, target));
    hits.narrow(0, first, count).copy_(logits.argmax(-1).eq(target));
  }
  std::vector<Likelihood> all;
  const auto* loss = losses.const_data_ptr<float>();
  const auto* hit = hits.const_data_ptr<bool>();
  for (const int64_t length : row.lengths) {
    Likelihood& one = all.emplace_back();
    for (int64_t t = 0; t < length; ++t, ++loss, ++hit) {
      one.sum -= *loss;
      one.greedy = one.greedy && *hit;
    }
  }
  return all;
}

}  // namespace

int64_t Continued::tokens() const {
  auto tokens = static_cast<int64_t>(context.size());
  for (const auto& continuation : continuations) tokens += static_cast<int64_t>(continuation.size()) - 1;
  return tokens;
}

std::vector<Likelihood> likelihoods(core::Model& model, core::BlockSource& source, const std::vector<Continued>& texts,
                                    const ContinuationOptions& options) {
  const c10::InferenceMode inference;
  const Rows all = packed(texts, options.batch_tokens);
  const auto batches = static_cast<int64_t>(all.rows.size());
  std::vector<core::Spans> spans;
  core::HiddenStore hidden(batches);
  for (int64_t i = 0; i < batches; ++i) {
    const at::Tensor ids = at::tensor(all.rows[i].ids, at::kLong).unsqueeze(0);
    hidden.put(i, model.embed(ids.to(model.embedding().device())));
    spans.push_back(all.rows[i].spans);
  }
  core::walk(model, source, {}, {.quantized = &hidden, .spans = &spans}, options.on_step);
  std::vector<std::vector<Likelihood>> of_texts(texts.size());
  core::for_each_batch(batches, batches > 0 ? hidden.get(0).numel() : 0, [&](int64_t i) {
    const std::vector<Likelihood> found = scored(model, all.rows[i], hidden.get(i)[0]);
    auto next = found.begin();
    for (const size_t text : all.texts[i]) {
      const auto count = static_cast<std::ptrdiff_t>(texts[text].continuations.size());
      of_texts[text].assign(next, next + count);
      next += count;
    }
    hidden.put(i, {});
  });
  std::vector<Likelihood> in_order;
  for (const std::vector<Likelihood>& found : of_texts) {
    for (const Likelihood& one : found) {
      core::require(std::isfinite(one.sum),
                    "the log-likelihood of continuation {} is not finite. The quantized model is broken, or float16 "
                    "overflows.",
                    in_order.size());
      in_order.push_back(one);
    }
  }
  return in_order;
}

}  // namespace experiments
