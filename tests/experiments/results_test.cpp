// What a run leaves behind: results.json field by field, and tables that add up.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "experiments/run/version.h"
#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

Strings names_of(const Json& object) {
  Strings names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

// A CSV file as one map per row.
std::vector<std::map<std::string, std::string>> read_csv(const std::string& file) {
  const auto cells = core::parse_csv(core::slurp(file), file);
  std::vector<std::map<std::string, std::string>> rows;
  for (size_t r = 1; r < cells.size(); ++r) {
    auto& row = rows.emplace_back();
    for (size_t c = 0; c < cells[0].size(); ++c) row[cells[0][c]] = cells[r].at(c);
  }
  return rows;
}

// Multiplies a bfloat16 tensor of a model by 2^-exponent.
void scale_down(const std::string& directory, const std::string& tensor, int exponent) {
  const auto checkpoint = core::Checkpoint::open(directory);
  const core::TensorView& view = checkpoint.at(tensor);
  std::vector<uint16_t> values(view.bytes / 2);
  std::memcpy(values.data(), view.data, view.bytes);
  for (uint16_t& value : values) {
    if ((value >> 7 & 255) > exponent) value -= static_cast<uint16_t>(exponent << 7);
  }
  overwrite_tensor(directory, tensor, {reinterpret_cast<const char*>(values.data()), view.bytes});
}

TEST(Results, SayWhichScalesAreTooSmallForTheirDtype) {
  const Lab lab;
  const std::string copy = lab.copy_of_model(), path = "model.layers.1.mlp.up_proj";
  scale_down(copy, path + ".weight", 22);
  const Strings overrides{"model.path=" + copy};
  const Json row = lab.row(overrides);
  ASSERT_EQ(row["imprecise_scales"].size(), 1u);
  EXPECT_EQ(row["imprecise_scales"][0]["module"], path);
  EXPECT_EQ(row["imprecise_scales"][0]["scales"], 256 * 128 / 64);
  EXPECT_THAT(
      core::slurp(lab.directory(row) + "/log.txt"),
      HasSubstr(" warning 512 scales of 1 linears are too small for float16: their errors may exceed 1/128. Use "
                "scale_dtype: bfloat16 or float32.\n"));
  EXPECT_EQ(lab.row({"model.path=" + copy, "quant.weight.scale_dtype=bfloat16"})["imprecise_scales"], Json::array());
}

TEST(Results, WarningsAboutAModelAreInTheLogOfEveryRunOfIt) {
  const Lab lab;
  const std::string copy = lab.copy_of_model();
  std::string config = core::slurp(copy + "/config.json");
  config.replace(config.find('{'), 1, "{\"rope_parameters\": {\"rope_theta\": 77},");
  core::write_atomically(copy + "/config.json", config);
  for (const char* bits : {"2", "3"}) {
    const Json row = lab.row({"model.path=" + copy, std::string("quant.weight.bits=") + bits});
    const std::string log = core::slurp(lab.directory(row) + "/log.txt"), line = "but rope_parameters.rope_theta is 77";
    EXPECT_THAT(log, HasSubstr(line)) << bits;
    EXPECT_EQ(log.find(line), log.rfind(line)) << bits;
  }
}

TEST(Results, HaveTheFieldsThatTheDocumentationLists) {
  const Lab lab;
  const Json row = lab.row();
  EXPECT_THAT(names_of(row), ElementsAre("schema", "name", "id", "seed", "swept", "commit", "versions", "machine",
                                         "hashes", "baseline", "quantized", "prefix", "bits", "macs_per_token",
                                         "mac_multiplier", "weight_bytes_per_token", "kv_bytes_at_8192", "runtime",
                                         "replication", "qat", "stages", "fallbacks", "imprecise_scales"));
  EXPECT_EQ(row["mac_multiplier"], 1.0);
  EXPECT_EQ(row["schema"], 1);
  EXPECT_EQ(row["name"], "lab");
  EXPECT_THAT(row["id"].get<std::string>(), MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(row["commit"], commit());
  EXPECT_THAT(names_of(row["machine"]), ElementsAre("cpu", "memory_bytes", "system", "device", "dtype", "threads"));
  EXPECT_EQ(row["machine"]["threads"], 2);
  EXPECT_EQ(row["fallbacks"], Json::array());
  EXPECT_EQ(row["imprecise_scales"], Json::array());
  for (const char* hash : {"config", "model", "tokenizer", "codes"}) {
    EXPECT_THAT(row["hashes"][hash].get<std::string>(), MatchesRegex("[0-9a-f]+")) << hash;
    EXPECT_EQ(row["hashes"][hash].get<std::string>().size(), 32u) << hash;
  }
}

TEST(Results, EveryFieldAndColumnIsDocumented) {
  const Lab lab;
  const Json row = lab.row();
  const std::string page = core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/results.md");
  const auto documented = [&](const std::string& name) {
    EXPECT_THAT(page, HasSubstr("`" + name)) << "in docs/results.md";
  };
  for (const std::string& name : names_of(row)) documented(name);
  for (const char* group : {"hashes", "bits"}) {
    for (const std::string& name : names_of(row[group])) documented(group + ("." + name) + "`");
  }
  const Json replica = lab.row({"replication.strategy=low_rank", "calibration.samples=2", "calibration.seq_len=64"});
  for (const std::string& name : names_of(replica["replication"])) documented("replication." + name + "`");
  for (const Json& group : {row["machine"], row["quantized"]["perplexity"][0], row["stages"][0]}) {
    for (const std::string& name : names_of(group)) documented(name + "`");
  }
  const Json decoded = lab.row({"measure.latency={contexts: [4], generate: 2, repetitions: 2}",
                                "measure.generation={corpus: " + lab.file("text.txt") +
                                    ", prompts: 2, prompt_tokens: 8, new_tokens: 4}"})["quantized"];
  for (const std::string& name : names_of(decoded["generation"])) documented(name + "`");
  for (const std::string& name : names_of(decoded["latency"])) {
    if (name != "contexts") documented(name + "`");
  }
  for (const std::string& name : names_of(decoded["latency"]["contexts"][0])) {
    documented((name.ends_with("_sd") ? "" : "contexts[].") + (name.ends_with("_sd") ? "ttft_ms_sd" : name) + "`");
  }
  for (const char* table : {"/windows.csv", "/modules.csv"}) {
    const std::string text = core::slurp(lab.directory(row) + table);
    const auto cells = core::parse_csv(text, table);
    for (const std::string& name : cells.at(0)) documented(name + "`");
  }
}

TEST(Results, NameEveryMeasurementCompletely) {
  const Lab lab;
  const Json row = lab.row();
  for (const char* which : {"baseline", "quantized"}) {
    const Json& p = row[which]["perplexity"].at(0);
    Strings names{"corpus",     "protocol", "bos", "seq_len",    "windows",          "tokens",
                  "token_hash", "nll",      "ppl", "ppl_stderr", "ppl_stderr_tokens"};
    if (std::string(which) == "quantized")
      names.insert(names.end(), {"kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_p999", "kl_max", "kl_not_finite",
                                 "top1_agreement", "change_of_p", "by_top1_probability"});
    EXPECT_EQ(names_of(p), names);
    EXPECT_EQ(p["corpus"], lab.file("text.txt"));
    EXPECT_EQ(p["protocol"], "gptq");
    EXPECT_EQ(p["bos"], "none");
    EXPECT_EQ(p["windows"], 3);
    EXPECT_EQ(p["tokens"], 3 * 63);
    EXPECT_DOUBLE_EQ(p["ppl"].get<double>(), std::exp(p["nll"].get<double>()));
    EXPECT_GT(p["ppl_stderr"].get<double>(), 0.0);
  }
  EXPECT_GT(Lab::nll_of(row), row["baseline"]["perplexity"][0]["nll"].get<double>()) << "2 bits cost nothing?";
}

TEST(Results, RecordEveryStageWithItsCosts) {
  const Lab lab;
  const Json stages = lab.row()["stages"];
  Strings names;
  for (const Json& stage : stages) {
    Strings fields = names_of(stage);
    if (fields.back() == "parts") fields.pop_back();
    EXPECT_THAT(fields, ElementsAre("name", "version", "seconds", "peak_rss_bytes", "cached"));
    EXPECT_GE(stage["seconds"].get<double>(), 0.0);
    EXPECT_GT(stage["peak_rss_bytes"].get<int64_t>(), 1 << 20);
    names.push_back(stage["name"]);
  }
  EXPECT_THAT(names, ElementsAre("baseline", "quantize", "load", "perplexity"));
}

// ---- the bill ----

TEST(Results, BitsAreThoseOfTheFormat) {
  const Lab lab;
  const Json bits = lab.row()["bits"];
  EXPECT_EQ(bits["codes"], 2.0);
  EXPECT_EQ(bits["with_parameters"], 2 + (16 + 2) / 64.0) << "a float16 scale and a 2-bit zero per 64 weights";
  EXPECT_EQ(lab.row({"quant.weight.bits=4", "quant.weight.group_size=32"})["bits"]["with_parameters"],
            4 + (16 + 4) / 32.0);
  // per block: q and o 128 × 128, k and v 64 × 128, gate, up and down 256 × 128; two norms of 128, two of 32
  const double blocks = 6 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128),
               dense = 1024 * 128 + 6 * (2 * 128 + 2 * 32) + 128;
  EXPECT_DOUBLE_EQ(bits["with_head"], (2.28125 * blocks + 16 * dense) / (blocks + dense));
  EXPECT_GT(bits["file"].get<double>(), bits["with_head"].get<double>()) << "headers cost something";
  EXPECT_LT(bits["file"].get<double>(), 1.2 * bits["with_head"].get<double>());
}

TEST(Results, BitsOnALargeMatrixAreThoseOfTheSameCoding) {
  const Lab lab;
  const auto wide = [&](const Strings& keys) {
    Strings all{"calibration.samples=2", "calibration.seq_len=64", "checkpoint=discard", "measure.kl=false"};
    all.insert(all.end(), keys.begin(), keys.end());
    return lab.row(all)["bits"]["at_4096"].get<double>();
  };
  const double whole = 4096.0 * 4096.0;
  EXPECT_EQ(wide({}), 2.28125) << "groups of 64 cost the same everywhere";
  EXPECT_EQ(wide({"quant.weight.group_size=-1"}), 2 + (16 + 2) / 4096.0);
  EXPECT_EQ(wide({"quant.weight.group_size=0"}), 2 + (16 + 2) / whole);
  EXPECT_EQ(wide({"replication.strategy=low_rank"}), 2.28125 + 16 * 4 * 2 * 4096 / whole);
  EXPECT_EQ(wide({"replication.strategy=row_column", "quant.weight.group_size=-1"}), 2 + 16 * 2 * 4096 / whole);
  EXPECT_EQ(wide({"replication.strategy=scales", "quant.weight.group_size=-1"}), 2 + 2 * 32 / 4096.0)
      << "fused: a float32 scale and zero point per row, however long";
  // three of seven linears a block, with 6 / 8 of the weights, in groups of 32
  EXPECT_EQ(wide({"quant.rules=[{match: \"*.mlp.*\", weight: {group_size: 32}}]"}),
            2 + 18 / 32.0 * (3 * 256 * 128) / (3 * 256 * 128 + 2 * 128 * 128 + 2 * 64 * 128) +
                18 / 64.0 * (2 * 128 * 128 + 2 * 64 * 128) / (3 * 256 * 128 + 2 * 128 * 128 + 2 * 64 * 128));
}

TEST(Results, QuantizedEndsAreInTheBill) {
  const Lab lab;
  const auto bits = [&](const std::string& rules) { return lab.row({"quant.rules=[" + rules + "]"})["bits"]; };
  const double blocks = 6 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128), table = 1024 * 128,
               norms = 6 * (2 * 128 + 2 * 32) + 128, all = blocks + table + norms;
  const double side = (16 + 4) / 64.0;  // of 4 bits in groups of 64
  const std::string rows = "{match: \"*embed_tokens\", weight: {bits: 4}}",
                    outputs = "{match: lm_head, weight: {bits: 4}}";
  const Json shared = bits(rows + ", " + outputs), one = bits(rows), other = bits(outputs);
  EXPECT_DOUBLE_EQ(shared["with_head"], (2.28125 * blocks + (4 + side) * table + 16 * norms) / all);
  for (const Json& untied : {one, other})
    EXPECT_DOUBLE_EQ(untied["with_head"], (2.28125 * blocks + (4 + side + 16) * table + 16 * norms) / all);
  EXPECT_EQ(one["codes"], 2.0) << "an embedding is no linear";
  for (const Json& head : {shared, other}) EXPECT_DOUBLE_EQ(head["codes"], (2 * blocks + 4 * table) / (blocks + table));
}

TEST(Results, AModuleInFullPrecisionIsOutOfTheDenominator) {
  const Lab lab;
  const Json bits = lab.row({"quant.rules=[{match: \"*.down_proj\", weight: {bits: 16}}]"})["bits"];
  EXPECT_EQ(bits["codes"], 2.0);
  EXPECT_EQ(bits["with_parameters"], 2.28125);
}

TEST(Results, MethodNoneIsTheBaselineAt16Bits) {
  const Lab lab;
  const Json row = lab.row({"quant.method=none"});
  EXPECT_EQ(row["quantized"], row["baseline"]);
  EXPECT_EQ(row["bits"]["with_head"], 16.0);
  for (const char* missing : {"codes", "with_parameters", "at_4096", "file"})
    EXPECT_TRUE(row["bits"][missing].is_null()) << missing;
  EXPECT_TRUE(row["hashes"]["codes"].is_null());
  EXPECT_TRUE(read_csv(lab.directory(row) + "/modules.csv").empty());
}

// ---- tables ----

TEST(Windows, SumToTheResult) {
  const Lab lab;
  const Json row = lab.row();
  std::map<std::string, double> sums;
  double kl = 0;
  int64_t same = 0;
  std::map<std::string, int64_t> tokens;
  const auto rows = read_csv(lab.directory(row) + "/windows.csv");
  EXPECT_EQ(rows.size(), 6u);
  for (auto window : rows) {
    EXPECT_EQ(window["corpus"], lab.file("text.txt"));
    EXPECT_EQ(window["protocol"], "gptq");
    sums[window["model"]] += std::stod(window["nll_sum"]);
    if (window["model"] == "baseline") {
      EXPECT_EQ(window["kl_sum"] + window["top1_agree"], "") << "full precision has no distance from itself";
    } else {
      kl += std::stod(window["kl_sum"]);
      same += std::stoll(window["top1_agree"]);
    }
    tokens[window["model"]] += std::stoll(window["tokens"]);
  }
  for (const char* which : {"baseline", "quantized"}) {
    const Json& p = row[which]["perplexity"][0];
    EXPECT_EQ(tokens[which], p["tokens"]);
    EXPECT_DOUBLE_EQ(sums[which] / static_cast<double>(tokens[which]), p["nll"].get<double>());
  }
  const Json& p = row["quantized"]["perplexity"][0];
  EXPECT_DOUBLE_EQ(kl / static_cast<double>(tokens["quantized"]), p["kl_mean"].get<double>());
  EXPECT_DOUBLE_EQ(static_cast<double>(same) / static_cast<double>(tokens["quantized"]),
                   p["top1_agreement"].get<double>());
  EXPECT_LE(p["kl_mean"], p["kl_p99"]);
  EXPECT_LE(p["kl_p99"], p["kl_max"]);
}

TEST(Modules, HaveOneRowPerLinearOfTheModel) {
  const Lab lab;
  const Json row = lab.row({"quant.rules=[{match: \"model.layers.0.*\", weight: {bits: 4}}]"});
  const auto rows = read_csv(lab.directory(row) + "/modules.csv");
  const auto model = models::build(core::read_hf_config(kTinyModel));
  const std::vector<core::Slot*> slots = model->slots();
  ASSERT_EQ(rows.size(), slots.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    auto module = rows[i];
    const core::Slot& slot = *slots[i];
    EXPECT_EQ(module["path"], slot.path());
    EXPECT_EQ(module["method"], "rtn");
    EXPECT_EQ(module["out_features"] + "x" + module["in_features"],
              std::to_string(slot.out_features()) + "x" + std::to_string(slot.in_features()));
    const bool first = slot.path().starts_with("model.layers.0.");
    EXPECT_EQ(module["bits"], first ? "4" : "2") << slot.path();
    EXPECT_EQ(module["groups"], std::to_string(slot.out_features() * slot.in_features() / 64));
    const double error = std::stod(module["weight_error"]);
    EXPECT_GT(error, 0.0);
    EXPECT_LT(error, first ? 0.02 : 0.3) << slot.path();
  }
}

}  // namespace
}  // namespace experiments
