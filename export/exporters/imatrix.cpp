// An importance matrix in the form of llama.cpp's tool (tools/imatrix/imatrix.cpp, GGUF): of every linear of the
// blocks the sums of its squared inputs over a text, and the number of tokens.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/io/files.h"
#include "core/io/gguf_names.h"
#include "core/io/gguf_writer.h"
#include "core/text/windows.h"
#include "export/checkpoint.h"
#include "export/exporter.h"
#include "quant/calibration/calibration.h"

namespace exports {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kTokensAtOnce = 2048;

// The inputs of one linear, or of the linears of all experts.
struct Inputs {
  std::vector<at::Tensor> mean_square;  // [I] float32 each; undefined: no token
  std::vector<int64_t> tokens;
  int64_t columns = 0;

  // Experts that no token reached get the mean of the others, and count as one token. Returns how many there were.
  int64_t fill() {
    at::Tensor sum;
    int64_t reached = 0, filled = 0;
    for (const at::Tensor& one : mean_square) {
      if (!one.defined()) continue;
      sum = reached++ == 0 ? one : sum + one;
    }
    for (size_t i = 0; i < mean_square.size(); ++i) {
      if (mean_square[i].defined()) continue;
      mean_square[i] = reached > 0 ? sum / reached : at::ones({columns});
      tokens[i] = 1;
      ++filled;
    }
    return filled;
  }
};

struct Imatrix : Exporter {
  std::string to = "auto", corpus;
  int64_t seq_len = 512, windows = 64;

  std::string summary() const override {
    return "an importance matrix: squared inputs of every linear on a text, in the form of llama.cpp's imatrix tool";
  }

  void keys(core::Keys& k) override {
    k.key("path", to, "the file; auto: imatrix.gguf in the run directory").not_identity();
    k.key("corpus", corpus, "the text, by its name or its path").not_identity();
    k.key("seq_len", seq_len, "tokens of a window", {2, 1 << 20}).not_identity();
    k.key("windows", windows, "that are read, spread over the text; 0: all", {0, 1 << 20}).not_identity();
  }

  std::string path() const override { return to == "auto" ? "" : to; }
  std::string default_name() const override { return "imatrix.gguf"; }

  std::vector<std::string> reasons(const ModelToExport& model) const override {
    const std::string family = model.model->shape().family;
    if (core::find_architecture(family) == nullptr)
      return {fmt::format("llama.cpp's architectures have no {} that we write", family)};
    std::vector<std::string> reasons;
    if (model.manifest.plan != core::default_plan(model.model->shape().layers))
      reasons.emplace_back("its plan runs blocks several times, and stock llama.cpp runs each once");
    try {
      core::require(!corpus.empty(), "{} is missing: name the text that is read", where("corpus"));
      core::find_corpus(corpus);
    } catch (const core::UserError& error) {
      reasons.emplace_back(error.what());
    }
    if (seq_len > model.model->shape().context)
      reasons.push_back(
          fmt::format("{} is {}, and the model's context {}", where("seq_len"), seq_len, model.model->shape().context));
    return reasons;
  }

  Written write(const ModelToExport& model, const std::string& path) const override {
    const at::NoGradGuard no_gradient;
    const fs::path folder = fs::path(path).parent_path();
    if (!folder.empty()) core::require_writable_directory(folder.string());
    core::Model& skeleton = *model.model;
    const core::Windows text = core::make_windows(core::load_corpus(corpus), *model.tokenizer,
                                                  {.seq_len = seq_len,
                                                   .windows = windows,
                                                   .windows_from = core::kSpread,
                                                   .embedding_rows = skeleton.shape().vocabulary});
    const auto source = open_source(skeleton, model.path, model.weights, Residency::stream);
    load_embedding_and_head(skeleton, model.path, model.weights);
    core::HiddenStore hidden = embedded(skeleton, text);
    core::GgufWriter file(folder.empty() ? "." : folder.string());
    Written written;
    for (int64_t i = 0; i < skeleton.shape().layers; ++i) {
      core::honour_interrupt();
      source->load(skeleton, i);
      add(skeleton, i, hidden, file, written);
      const core::Pass pass{.step = i};
      for (int64_t batch = 0; batch < hidden.batches(); ++batch)
        hidden.put(batch, skeleton.block(i).forward(hidden.get(batch), pass));
      source->release(skeleton, i);
    }
    written.files = file.write(path,
                               {{"general.type", "imatrix"},
                                {"imatrix.datasets", std::vector<std::string>{corpus}},
                                {"imatrix.chunk_count", static_cast<uint32_t>(text.count)},
                                {"imatrix.chunk_size", static_cast<uint32_t>(text.seq_len)}},
                               std::numeric_limits<int64_t>::max());
    return written;
  }

 private:
  static core::HiddenStore embedded(core::Model& model, const core::Windows& text) {
    const int64_t at_once = std::max<int64_t>(1, kTokensAtOnce / text.seq_len);
    core::HiddenStore hidden((text.count + at_once - 1) / at_once);
    for (int64_t batch = 0; batch < hidden.batches(); ++batch) {
      const int64_t first = batch * at_once, count = std::min(at_once, text.count - first);
      const at::Tensor ids = at::empty({count, text.seq_len}, at::kLong);
      std::copy_n(text.ids.begin() + first * text.seq_len, ids.numel(), ids.mutable_data_ptr<int64_t>());
      hidden.put(batch, model.embed(ids));
    }
    return hidden;
  }

  static void add(core::Model& model, int64_t block, const core::HiddenStore& hidden, core::GgufWriter& file,
                  Written& written) {
    const std::vector<core::LinearGroup> groups = model.block(block).groups();
    std::vector<quant::Tap> taps;
    for (const core::LinearGroup& group : groups) taps.push_back({group.slots.front(), {}});
    const std::vector<quant::Statistics> measured = quant::collect(model.block(block), {.step = block}, hidden, taps);
    std::vector<std::pair<std::string, Inputs>> all;  // by tensor, in the order of the block
    for (size_t i = 0; i < groups.size(); ++i) {
      for (const core::Slot* slot : groups[i].slots) {
        if (slot->role() == core::Role::router || slot->role() == core::Role::shared_expert_gate) continue;
        const auto place = core::gguf_place(*core::find_architecture(model.shape().family), slot->path() + ".weight");
        TORCH_CHECK(place.has_value(), slot->path(), " has no tensor");
        auto known = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.first == place->tensor; });
        if (known == all.end()) known = all.insert(all.end(), {place->tensor, {}});
        Inputs& inputs = known->second;
        inputs.columns = slot->in_features();
        inputs.mean_square.push_back(measured[i].tokens > 0 ? measured[i].mean_square.cpu() : at::Tensor());
        inputs.tokens.push_back(measured[i].tokens);
      }
    }
    for (auto& [tensor, inputs] : all) {
      if (const int64_t filled = inputs.fill(); filled > 0)
        spdlog::warn("{}: {} of {} experts saw no token, and have the mean of the others", tensor, filled,
                     inputs.tokens.size());
      put(tensor, inputs, file, written);
    }
  }

  static void put(const std::string& tensor, const Inputs& inputs, core::GgufWriter& file, Written& written) {
    const core::GgmlType& floats = *core::find_ggml_type("F32");
    const int64_t matrices = std::ssize(inputs.tokens);
    file.add(tensor + ".in_sum2", floats, {matrices, inputs.columns});
    std::vector<float> counts;
    for (size_t i = 0; i < inputs.tokens.size(); ++i) {
      counts.push_back(static_cast<float>(inputs.tokens[i]));
      const at::Tensor sums = (inputs.mean_square[i] * static_cast<double>(inputs.tokens[i])).contiguous();
      file.append(std::as_bytes(std::span(sums.const_data_ptr<float>(), static_cast<size_t>(sums.numel()))));
    }
    file.add(tensor + ".counts", floats, {matrices, 1});
    file.append(std::as_bytes(std::span(counts)));
    written.tensors.push_back({tensor, "imatrix", matrices * inputs.columns, 4 * matrices * (inputs.columns + 1), 0});
  }
};

}  // namespace

core::Polymorphic<Exporter> make_imatrix() { return Imatrix{}; }

}  // namespace exports
