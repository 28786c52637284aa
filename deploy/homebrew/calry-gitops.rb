# The template of the Homebrew formula. deploy/release/formula.sh fills it for each release.
class CalryGitops < Formula
  desc "GitOps for the integration definitions of a Calry workspace"
  homepage "https://github.com/calry-gitops/calry-gitops"
  version "@version@"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/calry-gitops/calry-gitops/releases/download/v#{version}/calry-gitops-#{version}-aarch64-apple-darwin.tar.gz"
      sha256 "@sha256:aarch64-apple-darwin@"
    end
    on_intel do
      url "https://github.com/calry-gitops/calry-gitops/releases/download/v#{version}/calry-gitops-#{version}-x86_64-apple-darwin.tar.gz"
      sha256 "@sha256:x86_64-apple-darwin@"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/calry-gitops/calry-gitops/releases/download/v#{version}/calry-gitops-#{version}-aarch64-unknown-linux-musl.tar.gz"
      sha256 "@sha256:aarch64-unknown-linux-musl@"
    end
    on_intel do
      url "https://github.com/calry-gitops/calry-gitops/releases/download/v#{version}/calry-gitops-#{version}-x86_64-unknown-linux-musl.tar.gz"
      sha256 "@sha256:x86_64-unknown-linux-musl@"
    end
  end

  def install
    bin.install "calry-gitops"
    bash_completion.install "completions/calry-gitops.bash" => "calry-gitops"
    zsh_completion.install "completions/_calry-gitops"
    fish_completion.install "completions/calry-gitops.fish"
    man1.install Dir["man/*.1"]
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/calry-gitops --version")
    (testpath/"definitions/guesty.yaml").write "provider: GUESTY\n"
    system bin/"calry-gitops", "validate"
  end
end
