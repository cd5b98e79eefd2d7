// The page's state in its address: which token, which pins, which scale.

const PAUSE = 300;

export class Address {
  constructor(tell) {
    this.tell = tell;
    this.timer = 0;
  }

  read() { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); }

  // A browser takes only so many changes of an address in a time, so they are gathered.
  change() {
    this.rest();
    this.timer = setTimeout(() => this.write(), PAUSE);
  }

  rest() { clearTimeout(this.timer); }

  write() {
    this.rest();
    try {
      history.replaceState(null, "", "#" + new URLSearchParams(this.tell()));
    } catch (refused) {
      // A frame without an address of its own, as in a notebook, keeps its state to itself.
    }
  }

  async copy() {
    this.write();
    await navigator.clipboard.writeText(location.href);
  }
}
