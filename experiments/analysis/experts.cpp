#include "experiments/analysis/experts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/io/csv.h"
#include "core/mixture.h"
#include "core/progress.h"
#include "experiments/inputs/assignments.h"
#include "experiments/inputs/cache_key.h"
#include "experiments/inputs/calibration_text.h"
#include "models/registry.h"
#include "quant/calibration/calibration.h"
#include "quant/stage/quantize.h"

namespace experiments {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Expert, path, tokens, frequency, gate, gate_square, energy, errors, together)

namespace {

using Linears = std::map<core::Slot*, std::shared_ptr<core::Linear>>;

constexpr int64_t kWidths[] = {1, 2, 3, 4};

// The experts' linears on grids of so many bits; 0: as configured. Nothing else is assigned.
std::vector<quant::Assignment> experts_at(const Spec& spec, core::Model& model, int64_t bits) {
  const auto coding = [&](const core::Slot& slot, const quant::WeightConfig& given, uint64_t seed) {
    quant::WeightConfig weight = given;
    if (bits > 0 && slot.expert() >= 0) weight.bits = bits;
    return quant::grid_coding(slot, weight, seed);
  };
  std::vector<quant::Assignment> all = quant::assign(spec.quant, model, static_cast<uint64_t>(spec.seed), coding);
  std::erase_if(all, [](const quant::Assignment& a) { return !a.format || a.slot->expert() < 0; });
  return all;
}

bool has_grid(const quant::WeightConfig& given, int64_t bits) {
  quant::WeightConfig weight = given;
  weight.bits = bits;
  try {
    weight.check();
  } catch (const core::UserError&) {  // e.g. narrow has none of 1 bit
    return false;
  }
  return true;
}

// Bits of the linears of each expert; of linears with different ones the most.
std::map<std::string, int64_t> configured_bits(const Spec& spec, core::Model& model) {
  std::map<std::string, int64_t> bits;
  for (const quant::Assignment& a : experts_at(spec, model, 0)) {
    int64_t& most = bits[model.expert_path(*a.slot)];
    most = std::max(most, a.format->config().bits);
  }
  return bits;
}

// Sum of the squares of all values of [n, D]; 0 without rows.
double sum_of_squares(const at::Tensor& rows) {
  return rows.size(0) == 0 ? 0 : at::square(rows.to(at::kFloat)).sum().item<double>();
}

// Quantizes the experts of a block at several widths and looks at what becomes of their outputs; the block is left as
// it was.
class ExpertWalk : public core::Stage {
 public:
  ExpertWalk(const Spec& spec, core::Model& model, const core::Windows& text, const std::set<int64_t>& widths) {
    quant::Calibration calibration = calibration_of(spec, &text);
    calibration.propagate_error = false;
    const std::string& method = spec.quant.method;
    for (const int64_t bits : widths) {
      stages_.emplace(bits, std::make_unique<quant::Quantize>(spec.quant.methods.at(method).share(), method,
                                                              experts_at(spec, model, bits), calibration));
    }
  }

  std::string name() const override { return "experts"; }
  int version() const override { return kExpertsVersion; }

  void block(core::BlockContext& context) override {
    core::Mixture* moe = context.block.mixture();
    if (moe == nullptr) return;
    at::NoGradGuard no_gradient;
    const core::HiddenStore tokens = inputs_of(*moe, context);
    std::map<int64_t, Linears> quantized;
    for (auto& [bits, stage] : stages_) quantized[bits] = linears_of(context, *stage);
    std::vector<Expert> experts(moe->experts());
    for (int64_t i = 0; i < tokens.batches(); ++i) add(*moe, tokens.get(i), quantized, experts);
    finish(*moe, experts);
    all_.insert(all_.end(), experts.begin(), experts.end());
  }

  std::vector<Expert> take() { return std::move(all_); }

 private:
  // What the router sees, batches of [N, D].
  static core::HiddenStore inputs_of(core::Mixture& moe, const core::BlockContext& context) {
    const core::HiddenStore& hidden = *context.inputs.full;
    core::HiddenStore tokens(hidden.batches());
    int64_t next = 0;
    const auto keep = [&](const at::Tensor& x) { tokens.put(next++, x.reshape({-1, x.size(-1)})); };
    quant::collect(context.block, {.step = context.step}, hidden,
                   {{.slot = &moe.router(), .needs = {}, .input = nullptr, .watch = keep}});
    return tokens;
  }

  // The quantized linears of the block; its slots hold what they held.
  static Linears linears_of(core::BlockContext& context, quant::Quantize& stage) {
    Linears original, made;
    for (core::Slot* slot : context.block.slots()) original[slot] = slot->pointer();
    stage.block(context);
    for (auto& [slot, linear] : original) {
      if (slot->pointer() != linear) made[slot] = slot->pointer();
      slot->put(linear);
    }
    return made;
  }

  static at::Tensor with(const Linears& linears, core::Mixture& moe, int64_t expert, const at::Tensor& x) {
    Linears original;
    for (core::Slot* slot : moe.slots_of(expert)) {
      const auto found = linears.find(slot);
      if (found == linears.end()) continue;
      original[slot] = slot->pointer();
      slot->put(found->second);
    }
    const at::Tensor y = moe.run(expert, x);
    for (auto& [slot, linear] : original) slot->put(linear);
    return y;
  }

  // Adds a batch of tokens [N, D]: sums, which finish() divides.
  void add(core::Mixture& moe, const at::Tensor& tokens, const std::map<int64_t, Linears>& quantized,
           std::vector<Expert>& experts) {
    const core::Mixture::Route route = moe.route(tokens);  // [N, k]
    tokens_ += tokens.size(0);
    const at::Tensor sent =
        at::zeros({tokens.size(0), moe.experts()}, at::kFloat).scatter_(1, route.experts.cpu(), 1.0);  // [N, E]
    const at::Tensor together = at::mm(sent.t(), sent).to(at::kLong).contiguous();                     // [E, E]
    for (int64_t e = 0; e < moe.experts(); ++e) {
      Expert& expert = experts[e];
      const auto* row = together.const_data_ptr<int64_t>() + e * moe.experts();
      expert.together.resize(moe.experts());
      for (int64_t other = 0; other < moe.experts(); ++other) expert.together[other] += row[other];
      const at::Tensor mine = route.experts == e;  // [N, k]
      const at::Tensor weights = route.weights.masked_select(mine).to(at::kFloat);
      const at::Tensor x = tokens.index_select(0, mine.any(-1).nonzero().flatten());  // [n, D]
      if (x.size(0) == 0) continue;
      expert.tokens += x.size(0);
      expert.gate += weights.sum().item<double>();
      expert.gate_square += at::square(weights).sum().item<double>();
      const at::Tensor y = moe.run(e, x);
      expert.energy += sum_of_squares(y);
      for (const auto& [bits, linears] : quantized) expert.errors[bits] += sum_of_squares(y - with(linears, moe, e, x));
    }
  }

  void finish(core::Mixture& moe, std::vector<Expert>& experts) {
    for (int64_t e = 0; e < moe.experts(); ++e) {
      Expert& expert = experts[e];
      expert.path = moe.expert_path(e);
      const double n = std::max<double>(1, static_cast<double>(expert.tokens));
      expert.frequency = static_cast<double>(expert.tokens) / static_cast<double>(tokens_);
      for (double* sum : {&expert.gate, &expert.gate_square, &expert.energy}) *sum /= n;
      for (auto& [bits, sum] : expert.errors) sum /= n;
    }
    tokens_ = 0;
  }

  std::map<int64_t, std::unique_ptr<quant::Quantize>> stages_;  // by bits
  int64_t tokens_ = 0;                                          // of this block so far
  std::vector<Expert> all_;
};

// Bits at which the experts are measured.
std::set<int64_t> widths_of(const Spec& spec, core::Model& model) {
  std::set<int64_t> widths;
  for (const int64_t bits : kWidths) {
    if (has_grid(spec.quant.weight, bits)) widths.insert(bits);
  }
  for (const auto& [expert, bits] : configured_bits(spec, model)) widths.insert(bits);
  return widths;
}

std::vector<Expert> measured_experts(const Spec& spec, const ModelFiles& files, const core::Windows& text) {
  const auto model = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  model->load_embedding_and_head(weights);
  ExpertWalk stage(spec, *model, text, widths_of(spec, *model));
  core::HiddenStore hidden = embedded(*model, text, spec.calibration.batch_tokens);
  core::StreamedSource source(weights);
  core::Progress bar("experts", spec.quiet);
  core::walk(*model, source, {&stage}, {.full = &hidden},
             [&](int64_t done, int64_t total) { bar.update(done, total); });
  return stage.take();
}

core::CacheKey experts_key(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text) {
  return cache_key(spec, {.stage = "experts",
                          .version = kExpertsVersion,
                          .keys = {&spec.calibration, &spec.quant},
                          .inputs = {{"model", resources.model_hash(files)},
                                     {"tokens", text.token_hash},
                                     {"quantize", std::to_string(quant::Quantize::kVersion)},
                                     {"seed", std::to_string(spec.seed)}}});
}

// On the model's own weights, whatever is done to them before they are quantized.
Spec plain_of(const Spec& spec) {
  Spec plain = single_of(spec);
  plain.calibration.propagate_error = false;
  plain.calibration.true_sequential = "false";
  plain.calibration.targets = "weight";
  plain.transform.clear();
  plain.quant.expert_bits = {};
  return plain;
}

quant::Rule rule_for(const std::string& match, int64_t bits) {
  core::Node node = core::make_map();
  core::assign(node, "match", core::make_string(match));
  core::assign(node, "weight.bits", core::make_integer(bits));
  quant::Rule rule;
  core::bind(node, rule, "quant.expert_bits");
  return rule;
}

// Bits of the experts of one block.
std::vector<int64_t> bits_of_block(const Spec& spec, const std::vector<const Expert*>& experts) {
  const quant::ExpertBitsConfig& config = spec.quant.expert_bits;
  const auto E = static_cast<int64_t>(experts.size());
  if (config.policy == "uniform") return std::vector<int64_t>(E, static_cast<int64_t>(config.mean_bits));
  if (config.policy == "random") {
    return quant::random_bits(E, config.choices, config.budget(E), static_cast<uint64_t>(spec.seed),
                              experts.front()->path);
  }
  std::vector<std::vector<double>> costs;
  for (const Expert* expert : experts) {
    const double weight =
        expert->tokens == 0 ? 0 : std::pow(expert->frequency, config.alpha) * std::pow(expert->gate, config.beta);
    std::vector<double>& row = costs.emplace_back();
    for (const int64_t bits : config.choices) row.push_back(expert->tokens == 0 ? 0 : weight * expert->errors.at(bits));
  }
  return quant::optimal_bits(costs, config.choices, config.budget(E));
}

}  // namespace

double Expert::sensitivity() const {
  const auto error = errors.find(bits);
  return error == errors.end() ? 0 : frequency * gate_square * error->second;
}

bool measures_experts(const Spec& spec) {
  const replication::ReplicationConfig& config = spec.replication;
  return spec.quant.expert_bits.selected() ||
         (config.selected() && config.select.of_experts() && config.select.is_ranked());
}

std::vector<Expert> experts_of(const Spec& spec, Resources& resources, const ModelFiles& files,
                               const core::Windows& text) {
  const Spec plain = plain_of(spec);
  core::CacheEntry entry = resources.cache().open(experts_key(plain, resources, files, text));
  if (!entry.complete()) {
    entry.write("experts.json", nlohmann::json(measured_experts(plain, files, text)).dump());
    entry.commit();
  }
  auto experts = nlohmann::json::parse(entry.read("experts.json")).get<std::vector<Expert>>();
  const auto model = models::build(files.config);
  const std::map<std::string, int64_t> bits = configured_bits(plain, *model);
  for (Expert& expert : experts) {
    const auto found = bits.find(expert.path);
    expert.bits = found == bits.end() ? quant::WeightConfig::kFullPrecision : found->second;
  }
  return experts;
}

std::vector<WalkCost> cost_of_experts(const Spec& spec, Resources& resources, const ModelFiles& files,
                                      const core::Windows& text) {
  if (!measures_experts(spec)) return {};
  const auto model = models::build(files.config);
  const Spec plain = plain_of(spec);
  const core::CacheKey key = experts_key(plain, resources, files, text);
  const bool cached = resources.cache().find(key).has_value();
  const std::set<int64_t> widths = widths_of(plain, *model);
  const auto tokens = static_cast<int64_t>(text.ids.size());
  const bool hessian = plain.quant.methods.at(plain.quant.method)->needs().hessian;
  const auto is_expert = [](const core::Slot& slot) { return slot.expert() >= 0; };
  std::set<std::string> experts;
  double macs = 0;
  for (int64_t i = 0; i < model->shape().layers; ++i) {
    double of_experts = 0;  // per token
    for (const core::Slot* slot : model->block(i).slots()) {
      if (!is_expert(*slot)) continue;
      experts.insert(model->expert_path(*slot));
      of_experts += slot->token_fraction() * static_cast<double>(slot->out_features() * slot->in_features());
    }
    const auto count = static_cast<double>(widths.size()), n = static_cast<double>(tokens);
    macs += n * (macs_of_block(*model, i, text.seq_len) + (count + 1) * of_experts);
    macs += count * macs_of_quantizing(*model, i, tokens, text.seq_len, hessian, is_expert);
  }
  const std::string line = fmt::format("experts: {} at {} widths, one walk over {} blocks{}", experts.size(),
                                       widths.size(), model->shape().layers, cached ? " (in the cache)" : "");
  return {{key.id(), line, cached ? 0 : macs}};
}

Spec allocated(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows* text) {
  if (!spec.quant.expert_bits.selected()) return spec;
  const std::vector<Expert> experts = experts_of(spec, resources, files, *text);
  std::map<int64_t, std::vector<const Expert*>> blocks;
  const auto model = models::build(files.config);
  for (const Expert& expert : experts) blocks[model->slot(expert.path + ".up_proj").block()].push_back(&expert);
  std::vector<quant::Rule> rules;
  for (const auto& [index, block] : blocks) {
    const std::vector<int64_t> bits = bits_of_block(spec, block);
    for (size_t e = 0; e < bits.size(); ++e) rules.push_back(rule_for(block[e]->path + ".*", bits[e]));
  }
  Spec result = spec;
  result.quant.expert_bits = {};
  result.quant.rules.insert(result.quant.rules.begin(), rules.begin(), rules.end());
  return result;
}

void check_expert_bits(const Spec& spec, core::Model& model) {
  const quant::ExpertBitsConfig& config = spec.quant.expert_bits;
  if (!config.selected()) return;
  const std::vector<core::Slot*> slots = model.slots();
  const bool has = std::any_of(slots.begin(), slots.end(), [](const core::Slot* slot) { return slot->expert() >= 0; });
  core::require(has, "{}: this model has no experts. Leave it out.", config.where("policy"));
  std::set<int64_t> bits(config.choices.begin(), config.choices.end());
  if (config.policy == "uniform") bits = {static_cast<int64_t>(config.mean_bits)};
  for (const int64_t width : bits) {
    Spec all = spec;
    all.quant.rules.insert(all.quant.rules.begin(), rule_for("*.experts.*", width));
    quant::assign(all.quant, model, static_cast<uint64_t>(spec.seed));
  }
}

std::string experts_csv(const std::vector<Expert>& experts, const std::map<std::string, double>& kl,
                        const std::set<std::string>& chosen) {
  core::CsvTable table({"expert", "tokens", "frequency", "gate", "error_1", "error_2", "error_3", "error_4", "bits",
                        "sensitivity", "kl", "chosen"});
  for (const Expert& expert : experts) {
    const auto error = [&](int64_t bits) {
      const auto found = expert.errors.find(bits);
      return found == expert.errors.end() || expert.energy <= 0 ? "" : core::csv_cell(found->second / expert.energy);
    };
    const auto divergence = kl.find(expert.path);
    table.row(expert.path, expert.tokens, expert.frequency, expert.gate, error(1), error(2), error(3), error(4),
              expert.bits, expert.sensitivity(), divergence == kl.end() ? "" : core::csv_cell(divergence->second),
              chosen.contains(expert.path) ? "yes" : "no");
  }
  return table.text();
}

std::string coactivation_csv(const std::vector<Expert>& experts) {
  core::CsvTable table({"expert", "other", "tokens"});
  for (size_t first = 0, count = 0; first < experts.size(); first += count) {  // of every block
    count = std::max<size_t>(1, experts[first].together.size());
    for (size_t e = 0; e < count; ++e) {
      for (size_t other = e + 1; other < count; ++other)
        table.row(experts[first + e].path, experts[first + other].path, experts[first + e].together[other]);
    }
  }
  return table.text();
}

}  // namespace experiments
