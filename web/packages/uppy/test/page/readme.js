// The test puts the README's example in place of this.
export {};
