# Evaluates a Homebrew formula as Homebrew would on each system, and prints the URL and sum that it takes there:
# `formula.rb FORMULA`.

class Formula
  class << self
    attr_accessor :system, :processor

    def version(value = nil)
      value ? @version = value : @version
    end

    def url(value) = taken[0] = value
    def sha256(value) = taken[1] = value
    def desc(_) = nil
    def homepage(_) = nil
    def license(_) = nil
    def test = nil

    { on_macos: :macos, on_linux: :linux }.each do |name, wanted|
      define_method(name) { |&block| block.call if Formula.system == wanted }
    end
    { on_arm: :arm, on_intel: :intel }.each do |name, wanted|
      define_method(name) { |&block| block.call if Formula.processor == wanted }
    end

    def taken = Formula.instance_variable_get(:@taken_now)
  end
end

%i[macos linux].product(%i[arm intel]).each do |system, processor|
  Formula.system = system
  Formula.processor = processor
  Formula.instance_variable_set(:@taken_now, [])
  load ARGV[0]
  puts Formula.taken.join(" ")
end
