#include "core/io/model_path.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/gguf_model.h"
#include "core/io/gguf_sidecar.h"
#include "core/io/json_text.h"
#include "core/io/safetensors.h"

namespace core {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> model_roots() {
  std::vector<std::string> roots;
  for (const std::string& root : data_roots()) roots.insert(roots.end(), {root, root + "/models"});
  roots.push_back(fetched_models());
  return roots;
}

// Folders that are named to a user whose model was not found.
std::vector<std::string> searched() {
  std::vector<std::string> folders = data_roots();
  folders.push_back(fetched_models());
  return folders;
}

// The GGUF models of a folder; of a split one the first part.
std::set<std::string> ggufs_in(const std::string& folder) {
  std::set<std::string> firsts;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string path = at->path().string();
    const size_t of = path.size() > 20 ? path.size() - 14 : std::string::npos;  // "-of-00003.gguf"
    const bool later_part =
        of != std::string::npos && path.compare(of, 4, "-of-") == 0 && path.compare(of - 6, 6, "-00001") != 0;
    if (path.ends_with(".gguf") && !later_part) firsts.insert(path);
  }
  return firsts;
}

// Its only GGUF model; "": it has none or several.
std::string only_gguf(const std::string& folder) {
  const std::set<std::string> all = ggufs_in(folder);
  return all.size() == 1 ? *all.begin() : "";
}

// Refuses a folder that cannot be read, or holds several models.
void refuse_folder(const std::string& folder) {
  std::error_code error;
  const fs::directory_iterator readable(folder, error);
  require(!error, "{}: {}. Check its permissions.", folder, error.message());
  const std::set<std::string> all = ggufs_in(folder);
  require(all.size() < 2, "{}: {} GGUF files lie here. Name one of them, e.g. {}.", folder, all.size(),
          all.empty() ? "" : *all.begin());
}

// What a path that exists stands for; "": no model.
std::string model_at(const std::string& path) {
  if (is_file(path + "/config.json")) return path;
  return is_directory(path) ? only_gguf(path) : "";
}

// A file that is not a GGUF: what it is, and what is needed.
[[noreturn]] void refuse_file(const std::string& path) {
  constexpr const char* kNeeded =
      "a folder in Hugging Face format (config.json, safetensors, a tokenizer) or a GGUF file";
  const fs::path file(path);
  const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
  std::string beginning(32, '\0');
  std::ifstream(path, std::ios::binary).read(beginning.data(), std::ssize(beginning));
  if (beginning.starts_with("version https://git-lfs.git")) {
    fail("{}: this is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.", path);
  }
  if (file.extension() == ".safetensors" || file.extension() == ".json") {
    fail("{}: this is one file of a model folder. Name the folder: {}.", path, folder);
  }
  if (beginning.starts_with("PK") || beginning.starts_with("\x80\x02")) {
    fail("{}: this is a PyTorch checkpoint, which is not read. Convert it with save_pretrained of transformers.", path);
  }
  fail("{}: this file is no model. What is needed is {}.", path, kNeeded);
}

// Names that tools/get_model knows.
std::vector<std::string> fetchable_models() {
  const std::string path = home_data() + "/models.json";
  std::vector<std::string> names;
  if (!is_file(path)) return names;
  const JsonObject models = JsonObject::read(path);
  return models.keys();
}

// Adds the models up to two levels below `base`, named relative to it.
void collect_models(const std::string& base, std::set<std::string>& names) {
  if (!is_directory(base)) return;
  std::error_code error;
  for (fs::recursive_directory_iterator at(base, fs::directory_options::skip_permission_denied, error), end;
       !error && at != end; at.increment(error)) {
    if (at.depth() >= 1) at.disable_recursion_pending();
    const std::string name = fs::path(at->path()).lexically_relative(base).generic_string();
    if (!model_at(at->path().string()).empty() && !name.starts_with("models/")) names.insert(name);
  }
}

}  // namespace

std::string find_model(const std::string& name_or_path) {
  require(name_or_path.find_first_of("\n\r") == std::string::npos,
          "{}: a line break in the name of a model. Rename the file.", printable(name_or_path));
  if (is_directory(name_or_path)) {
    const std::string model = model_at(name_or_path);
    if (model.empty()) refuse_folder(name_or_path);
    return model.empty() ? name_or_path : model;  // its reader says what is missing
  }
  if (is_file(name_or_path)) {
    if (!Gguf::is_gguf(name_or_path) && fs::path(name_or_path).extension() != ".gguf") refuse_file(name_or_path);
    return name_or_path;
  }
  for (const std::string& root : model_roots()) {
    const std::string path = root + "/" + name_or_path, model = model_at(path);
    if (!name_or_path.empty() && !model.empty()) return model;
    if (is_file(path) && Gguf::is_gguf(path)) return path;
  }
  for (const std::string& name : fetchable_models()) {
    if (name == name_or_path) fail("{}: this model is not here yet. Fetch it: tools/get_model {}", name, name);
  }
  fail("{}: no such model or directory.{}", name_or_path,
       known_names(name_or_path, list_models(), "models", searched()));
}

std::vector<std::string> list_models() {
  std::set<std::string> names;
  for (const std::string& root : model_roots()) collect_models(root, names);
  return {names.begin(), names.end()};
}

JsonObject read_model_config(const std::string& model) {
  if (is_file(model)) return JsonObject::parse(gguf_config(open_base(model)), model);
  return read_hf_config(model);
}

std::shared_ptr<const TensorSource> open_tensors(const std::string& model) {
  if (is_file(model)) {
    const Gguf file = Gguf::open(model);
    return is_sidecar(file) ? sidecar_tensors(file) : gguf_tensors(file);
  }
  return std::make_shared<const Checkpoint>(Checkpoint::open(model));
}

}  // namespace core
