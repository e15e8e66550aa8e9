// A checkpoint that is damaged, incomplete or not ours: each way is refused with its own line.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"
#include "tests/export/support.h"

namespace exports {
namespace {

using core::message_of;
using ::testing::StartsWith;

constexpr const char* kModule = "model.layers.0.self_attn.q_proj";

// A good checkpoint, made afresh for each test, and what opening it says after the test has damaged it.
class Damaged : public ::testing::Test {
 protected:
  void SetUp() override {
    Opened model = opened(golden("llama_biases"));
    save(model, "{weight: {bits: 3, group_size: 8}, rules: [{match: '*.down_proj', weight: {bits: 16}}]}", out_.path());
  }

  std::string message() const {
    return message_of([&] { opened(out_.path()); });
  }
  std::string file(const std::string& name) const { return out_.file(name); }

  // Rewrites refrain.json after `change(json)`.
  template <typename Change>
  std::string with_manifest(Change change) const {
    auto json = nlohmann::json::parse(core::slurp(file("refrain.json")));
    change(json);
    out_.put("refrain.json", json.dump());
    return message();
  }

  // Rewrites the shard of block 0 after `change(tensors)`.
  template <typename Change>
  std::string with_tensors(Change change) const {
    const std::string shard = file("block-00000.safetensors");
    {
      const auto checkpoint = core::Checkpoint::open(shard);
      std::vector<core::TensorToWrite> tensors;
      for (const std::string& name : checkpoint.names()) {
        const core::TensorView& view = checkpoint.at(name);
        tensors.push_back({name, view.dtype, view.shape, view.data});
      }
      change(tensors);
      core::write_safetensors(shard, tensors);
    }
    return message();
  }

  static core::TensorToWrite& tensor(std::vector<core::TensorToWrite>& tensors, const std::string& suffix) {
    for (core::TensorToWrite& t : tensors) {
      if (t.name == fmt::format("{}.{}", kModule, suffix)) return t;
    }
    throw std::logic_error("no such tensor");
  }

  core::Scratch out_;
};

TEST_F(Damaged, NotAtAllItOpens) { EXPECT_EQ(message(), "no error"); }

TEST_F(Damaged, CodesThatChangedOnDisk) {
  const std::string message = with_tensors([](auto& tensors) {
    core::TensorToWrite& codes = tensor(tensors, "codes");
    static std::vector<uint8_t> bytes;
    const auto* data = static_cast<const uint8_t*>(codes.data);
    bytes.assign(data, data + codes.shape[0] * codes.shape[1]);
    bytes[7] ^= 4;
    codes.data = bytes.data();
  });
  EXPECT_EQ(message, file("block-00000.safetensors") + ": the codes of " + kModule + " are not those that " +
                         file("refrain.json") + " records. Write the checkpoint again.");
}

TEST_F(Damaged, CodesOfAnotherShape) {
  const std::string message = with_tensors([](auto& tensors) { tensor(tensors, "codes").shape = {12, 18}; });
  EXPECT_EQ(message, file("block-00000.safetensors") + ": " + kModule +
                         ".codes is U8 [12, 18], not U8 [24, 9]. Write the checkpoint again.");
}

TEST_F(Damaged, CodesOfAnotherType) {
  const std::string message = with_tensors([](auto& tensors) { tensor(tensors, "codes").dtype = core::DType::I8; });
  EXPECT_EQ(message, file("block-00000.safetensors") + ": " + kModule +
                         ".codes is I8 [24, 9], not U8 [24, 9]. Write the checkpoint again.");
}

TEST_F(Damaged, ZerosOfAnotherShape) {
  const std::string message = with_tensors([](auto& tensors) { tensor(tensors, "zero_point").shape = {48, 1}; });
  EXPECT_EQ(message, file("block-00000.safetensors") + ": " + kModule +
                         ".zero_point is U8 [48, 1], not U8 [24, 2]. Write the checkpoint again.");
}

TEST_F(Damaged, ScalesOfAnotherShape) {
  const std::string message = with_tensors([](auto& tensors) { tensor(tensors, "scale").shape = {3, 24}; });
  EXPECT_THAT(message, StartsWith(file("block-00000.safetensors") + ": " + kModule + ".scale is [3, 24]"));
}

TEST_F(Damaged, AScaleThatIsNotFinite) {
  const std::string message = with_tensors([](auto& tensors) {
    static const std::vector<uint16_t> infinite(72, 0x7c00);
    tensor(tensors, "scale").data = infinite.data();
  });
  EXPECT_THAT(message, StartsWith(std::string(kModule) + ".scale: value at [0, 0] is not finite."));
}

TEST_F(Damaged, ATensorThatIsMissing) {
  const std::string message = with_tensors([](auto& tensors) {
    std::erase_if(tensors, [](const core::TensorToWrite& t) { return t.name.ends_with("q_proj.scale"); });
  });
  EXPECT_EQ(message,
            file("model.safetensors.index.json") + ": tensor `" + kModule +
                ".scale` is not in block-00000.safetensors, where the index puts it. Download both files again.");
}

TEST_F(Damaged, AShardThatIsMissing) {
  std::filesystem::remove(file("block-00001.safetensors"));
  EXPECT_EQ(message(), file("model.safetensors.index.json") +
                           ": the shard block-00001.safetensors is missing beside it. Download that file.");
}

TEST_F(Damaged, AShardThatIsTruncatedAnywhere) {
  const std::string shard = file("block-00001.safetensors"), whole = core::slurp(shard);
  for (const size_t length : {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    out_.put("block-00001.safetensors", whole.substr(0, length));
    EXPECT_THAT(message(), StartsWith(shard + ": ")) << length << " bytes";
  }
}

TEST_F(Damaged, WithoutRefrainJsonItIsUnfinished) {
  std::filesystem::remove(file("refrain.json"));
  EXPECT_EQ(
      message(),
      out_.path() + ": the checkpoint is unfinished: it has codes, but no refrain.json. Write the checkpoint again.");
}

TEST_F(Damaged, RefrainJsonThatIsCutOff) {
  const std::string whole = core::slurp(file("refrain.json"));
  out_.put("refrain.json", whole.substr(0, whole.size() / 2));
  EXPECT_THAT(message(), StartsWith(file("refrain.json") + ": the text is not JSON"));
}

TEST_F(Damaged, AnotherSchema) {
  EXPECT_EQ(with_manifest([](auto& json) { json["schema"] = 2; }),
            file("refrain.json") + ": schema is 2. Only 1 is implemented.");
}

TEST_F(Damaged, AMissingEntry) {
  const std::string tail = " is missing. Is this the configuration that belongs to the model?";
  for (const std::string key : {"schema", "model", "modules"}) {
    auto json = nlohmann::json::parse(core::slurp(file("refrain.json")));
    EXPECT_EQ(with_manifest([&](auto& changed) { changed.erase(key); }), file("refrain.json") + ": " + key + tail);
    out_.put("refrain.json", json.dump());
  }
  const std::string expected = fmt::format("{}: modules.{}.code_hash{}", file("refrain.json"), kModule, tail);
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"][kModule].erase("code_hash"); }), expected);
}

TEST_F(Damaged, AnUnknownFormat) {
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"][kModule]["decoder"] = "spiral"; }),
            file("refrain.json") + ": modules." + kModule +
                ".decoder is `spiral`, but these variables make `affine`. Use the Refrain that wrote the checkpoint.");
}

TEST_F(Damaged, AnUnknownVariable) {
  EXPECT_THAT(with_manifest([](auto& json) { json["modules"][kModule]["weight"]["bitz"] = 3; }),
              StartsWith(file("refrain.json") + ": modules." + kModule +
                         ".weight.bitz is not a known key. Did you mean `bits`?"));
}

TEST_F(Damaged, VariablesWithoutCodes) {
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"][kModule]["weight"]["bits"] = 16; }),
            file("refrain.json") + ": modules." + kModule +
                ".weight.bits is 16, which has no codes. Write the checkpoint again.");
}

TEST_F(Damaged, OtherBitsThanTheCodesHave) {
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"][kModule]["weight"]["bits"] = 4; }),
            file("block-00000.safetensors") + ": " + kModule +
                ".codes is U8 [24, 9], not U8 [24, 12]. Write the checkpoint again.");
}

TEST_F(Damaged, AModuleThatTheModelDoesNotHave) {
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"]["model.layers.9.mlp.up_proj"] = json["modules"][kModule]; }),
            file("refrain.json") +
                ": modules.model.layers.9.mlp.up_proj is not a linear of this model. Write the checkpoint again.");
  EXPECT_EQ(
      with_manifest([](auto& json) {
        json["inputs"]["lm_head"] = {{"activation", {{"bits", 8}}}, {"seed", 1}};
      }),
      file("refrain.json") + ": inputs.lm_head is not a linear of this model's blocks. Write the checkpoint again.");
}

TEST_F(Damaged, InputsWithoutTheirScale) {
  EXPECT_THAT(with_manifest([](auto& json) {
                json["inputs"]["model.layers.0.mlp.down_proj"] = {
                    {"activation", {{"bits", 8}, {"mode", "static"}, {"granularity", "per_tensor"}}}, {"seed", 1}};
              }),
              ::testing::HasSubstr("model.layers.0.mlp.down_proj.activation_scale"));
  EXPECT_EQ(with_manifest([](auto& json) {
              json["inputs"]["model.layers.0.mlp.down_proj"] = {{"activation", {{"bits", 16}}}, {"seed", 1}};
            }),
            file("refrain.json") +
                ": inputs.model.layers.0.mlp.down_proj.activation.bits is 16, which quantizes "
                "nothing. Write the checkpoint again.");
}

TEST_F(Damaged, CodesOfALinearThatHasNone) {
  EXPECT_EQ(with_manifest([](auto& json) { json["modules"][kModule]["codes_of"] = "model.layers.0.mlp.up_prj"; }),
            file("refrain.json") + ": modules." + kModule +
                ".codes_of is `model.layers.0.mlp.up_prj`, which stores no codes. Write the checkpoint again.");
}

TEST_F(Damaged, MoreReplicasThanAnybodyMakes) {
  EXPECT_EQ(with_manifest([](auto& json) { json["plan"][1]["replica"] = 1000000; }),
            file("refrain.json") +
                ": plan[1] runs 1 replicas from replica 1000000 on, which none of ours does. Write the checkpoint "
                "again.");
  EXPECT_EQ(with_manifest([](auto& json) { json["plan"][1]["parallel"] = 0; }),
            file("refrain.json") +
                ": plan[1] runs 0 replicas from replica 1000000 on, which none of ours does. Write the checkpoint "
                "again.");
}

TEST_F(Damaged, APlanThatTheModelCannotRun) {
  const std::string start = file("refrain.json") + ": ";
  auto with_plan = [&](const char* plan) {
    return with_manifest([&](auto& json) { json["plan"] = nlohmann::json::parse(plan); });
  };
  EXPECT_EQ(with_plan("[]"), start + "the plan is empty. Write the checkpoint again.");
  EXPECT_EQ(with_plan("7"), start + "plan is missing or not a list. Write the checkpoint again.");
  EXPECT_EQ(with_plan(R"([{"block": 5}])"),
            start + "plan[0].block is 5, but the model has 2 blocks. Write the checkpoint again.");
  EXPECT_EQ(with_plan(R"([{"block": 0}, {"block": 1, "kv": 1}])"),
            start + "plan[1].kv is 1. It must be \"own\" or an earlier step.");
  EXPECT_EQ(with_plan(R"([{"replica": 0}])"),
            start + "plan[0]: block is missing. Is this the configuration that belongs to the model?");
  EXPECT_EQ(with_plan(R"([3])"),
            start + "plan[0]: the text is 3, not an object. Repair the file or download it again.");
}

}  // namespace
}  // namespace exports
